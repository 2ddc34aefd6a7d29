"""A width group of a version that was rebuilt from the log."""

from __future__ import annotations

from esper_es.cli.layout import Hanging, words
from esper_es.cli.output import Page
from esper_es.cli.reading import Reading
from esper_es.cli.replaying import Rebuilt, rebuild
from esper_es.domain.errors import UsageError
from esper_es.domain.facts import ModelRegistered
from esper_es.example_inputs import ExampleInputs
from esper_es.projections.live.live import Live
from esper_es.session import Publisher, Session
from esper_es.stored_examples import load_examples
from esper_es.width_explanation import explained_width


def explain_page(
    source: Reading, name: str | None, layer: str, dimension: str, version: int | None, *, imported: bool
) -> Page:
    """Explain a layer of a version.

    Raises:
        UsageError: if there is no such model, version or layer, or the log has no example inputs of it.
        ReplayError: if the structure can't be rebuilt.
        MissingTensorError, IntegrityFailure: if the example inputs can't be read.
    """
    rebuilt = rebuild(source, name, version, imported=imported)
    state = rebuilt.state
    found = explained_width(
        _session(source, rebuilt), layer, int(dimension) if dimension.isdecimal() else dimension
    )
    document = {"model": state.name, "version": state.version, "layer": layer, **found.as_dict()}
    title = words(f"{state.name} {state.version}  {layer}", "yellow")
    return Page(document, [Hanging(title), *(Hanging(words(line)) for line in found.lines())])


def _session(source: Reading, rebuilt: Rebuilt) -> Session:
    """Return a session on the rebuilt module in which things can be tried, and nothing is committed."""
    if source.vault is None:
        raise UsageError(f"{source.no_vault}; the example inputs to run the model on are kept there")
    return Session(
        log=source.log,
        vault=source.vault,
        live=Live(rebuilt.module),
        examples=_examples(source, rebuilt),
        state=rebuilt.state,
        publisher=Publisher(),
    )


def _examples(source: Reading, rebuilt: Rebuilt) -> ExampleInputs:
    (registration,) = source.log.at(rebuilt.state.id, {1})
    digest = registration.fact.examples if isinstance(registration.fact, ModelRegistered) else None
    if digest is None or source.vault is None:
        raise UsageError(
            f"the log holds no example inputs of {rebuilt.state.name!r}: they could not be stored without pickle, or "
            "an older release wrote it; explain it in the program that trains it, by run.surgeon.explain"
        )
    return load_examples(source.vault, digest)
