"""What ``replay`` does and answers; torch is loaded with this module."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from rich.console import RenderableType
from rich.text import Text
from torch import nn

from esper_es.cli.exits import ExitCode
from esper_es.cli.layout import Hanging, pairs, words
from esper_es.cli.output import Page
from esper_es.cli.reading import Reading
from esper_es.cli.replaying import Comparison, Rebuilt, compare, rebuild
from esper_es.domain.errors import UsageError
from esper_es.rebuilding import EXACT, STALE, STRUCTURAL

_MEANING = {
    EXACT: "every tensor has the bytes it had at the version",
    STALE: "trained on without a capture; tensors are those of the capture before, with the surgeries since",
    STRUCTURAL: "no tensors could be had; they were drawn again from the recorded seeds",
}


def replay_page(
    source: Reading, name: str | None, version: int | None, *, check: bool, device: str | None, imported: bool
) -> Page:
    """Rebuild a version of a model, and compare it with what was recorded if asked to.

    Args:
        source: the log.
        name: of the model; the only one by default.
        version: the newest by default.
        check: whether to compare.
        device: where to put the module; the CPU by default.
        imported: whether the user's code was imported.

    Raises: as ``rebuild``; UsageError for a device that is not there.
    """
    rebuilt = rebuild(source, name, version, imported=imported)
    _move(rebuilt.module, device)
    comparison = compare(rebuilt) if check else None
    document = {
        "model": rebuilt.report.name,
        "version": rebuilt.report.version,
        "exactness": rebuilt.report.exactness,
        "capture": rebuilt.report.capture,
        "missing": rebuilt.report.missing or None,
        "parameters": rebuilt.state.architecture.parameter_count,
        "device": device or "cpu",
        "check": None if comparison is None else _check_document(rebuilt, comparison),
    }
    return Page(document, _lines(rebuilt, comparison), _code(rebuilt, comparison))


def _move(module: nn.Module, device: str | None) -> None:
    try:
        module.to(torch.device(device or "cpu"))
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device}: {error}") from error


def _code(rebuilt: Rebuilt, comparison: Comparison | None) -> ExitCode:
    if comparison is None:
        return ExitCode.FINE
    if not comparison.matches:
        return ExitCode.INTEGRITY
    return ExitCode.FINDING if rebuilt.report.exactness == STRUCTURAL else ExitCode.FINE


def _check_document(rebuilt: Rebuilt, comparison: Comparison) -> dict[str, object]:
    return {
        "matches": comparison.matches,
        "architecture": {"recorded": comparison.architecture, "found": comparison.architecture_found},
        "model": {
            "recorded": {str(version): value for version, value in rebuilt.recorded.items()},
            "found": comparison.model_found,
        },
    }


def _lines(rebuilt: Rebuilt, comparison: Comparison | None) -> Iterator[RenderableType]:
    report = rebuilt.report
    style = "green" if report.exact else "yellow"
    yield Hanging(
        words(f"{report.name} {report.version}  ", "yellow"), words(f"{report.exactness} replay", style)
    )
    entries: list[tuple[str, Text | str]] = [("that is", _MEANING[report.exactness])]
    if report.capture is not None:
        entries.append(("tensors", f"of the capture of version {report.capture}"))
    if report.missing:
        entries.append(("missing", report.missing))
    entries.append(("parameters", f"{rebuilt.state.architecture.parameter_count:,}"))
    if comparison is not None:
        entries += _verdicts(rebuilt, comparison)
    yield from pairs(entries)


def _verdicts(rebuilt: Rebuilt, comparison: Comparison) -> Iterator[tuple[str, Text | str]]:
    same = comparison.architecture == comparison.architecture_found
    yield "architecture", _verdict(same, "as recorded", "differs from what was recorded")
    if comparison.model_found is None:
        why = "the log holds no fingerprint of this version" if rebuilt.report.exact else "not comparable"
        yield "bytes", words(why, "yellow")
        return
    versions = ", ".join(map(str, rebuilt.recorded))
    differing = ", ".join(map(str, comparison.differing))
    yield (
        "bytes",
        _verdict(
            not comparison.differing,
            f"as recorded by version {versions}",
            f"differ from what version {differing} recorded",
        ),
    )
    yield "fingerprint", comparison.model_found


def _verdict(good: bool, yes: str, no: str) -> Text:
    return words(yes, "green") if good else words(no, "bold red")
