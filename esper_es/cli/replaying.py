"""A version rebuilt from a log that is only read, and what can be compared with it."""

from __future__ import annotations

from attrs import evolve, frozen
from torch import nn

from esper_es.cli.reading import Reading
from esper_es.domain.errors import ReplayError, UsageError
from esper_es.domain.facts import RolledBack
from esper_es.domain.state import ModelState
from esper_es.fingerprints import fingerprint
from esper_es.projections.live.blueprints import is_built_in
from esper_es.projections.live.describe import describe
from esper_es.rebuilding import Replay, replayed, with_captures_of


@frozen(eq=False)
class Rebuilt:
    """A version, rebuilt.

    Attributes:
        module: fresh, on the CPU.
        report: how exact it is.
        state: of the model at the version.
        recorded: fingerprints of the model at the version that the log holds, by the version of the fact that
            holds each.
    """

    module: nn.Module
    report: Replay
    state: ModelState
    recorded: dict[int, str]


@frozen
class Comparison:
    """What a rebuilt module was compared with.

    Attributes:
        architecture: fingerprint of the architecture that the log says.
        architecture_found: that of the module.
        model_found: fingerprint of the module with its bytes; None when the log has none to compare, or the
            bytes are not those of the version.
        differing: versions of the facts that say another one.
    """

    architecture: str
    architecture_found: str
    model_found: str | None
    differing: tuple[int, ...]

    @property
    def matches(self) -> bool:
        return self.architecture == self.architecture_found and not self.differing


def rebuild(source: Reading, name: str | None, version: int | None, *, imported: bool) -> Rebuilt:
    """Rebuild a version of a model.

    Args:
        source: the log.
        name: of the model; the only one by default.
        version: the newest by default.
        imported: whether the user's code was imported; otherwise the error says how.

    Raises:
        UsageError: if there is no such model or version, or its blueprint is not registered.
        ReplayError: if the structure can't be rebuilt.
        IntegrityFailure: if tensors are damaged.
    """
    newest = source.state(name)
    state = newest if version is None else source.state(newest.name, version)
    history = source.log.at(state.id, {1, *state.lineage.edits_of})
    try:
        module, report = replayed(with_captures_of(newest, state), history, source.vault)
    except (ReplayError, UsageError) as error:
        if imported or state.base.blueprint is None or is_built_in(state.base.blueprint):
            raise
        raise UsageError(
            f"{error}. The command line imports it with --import MODULE, e.g. --import project.models"
        ) from error
    if source.vault is None:
        report = evolve(report, missing=source.no_vault)
    return Rebuilt(module, report, state, _recorded(source, newest, state.version))


def compare(rebuilt: Rebuilt) -> Comparison:
    """Compare a rebuilt module with what the log recorded of the version."""
    found = fingerprint(rebuilt.module) if rebuilt.report.exact and rebuilt.recorded else None
    recorded, described = rebuilt.state.architecture, describe(rebuilt.module)
    return Comparison(
        architecture=recorded.fingerprint,
        architecture_found=(recorded if described.fits(recorded) else described).fingerprint,
        model_found=found,
        differing=tuple(v for v, recorded in rebuilt.recorded.items() if found not in (None, recorded)),
    )


def _recorded(source: Reading, newest: ModelState, version: int) -> dict[int, str]:
    recorded = {
        capture.version: capture.model_fingerprint
        for capture in newest.captures.values()
        if version in (capture.version, capture.of_version)
    }
    (envelope,) = source.log.at(newest.id, {version})
    if isinstance(envelope.fact, RolledBack):
        recorded[version] = envelope.fact.model_fingerprint
    return recorded
