"""The page of the zoo, in Markdown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version

from .report import SURGERIES, Visit

HEADER = (
    "model | parameters | groups free | pinned | grown | shrunk | larger heads | smaller heads | insert | remove | "
    "skip | outputs moved by, at most | bit for bit | under norms | replayed | compiles | ms per surgery"
)


def page(visits: Sequence[Visit]) -> str:
    """Return the page about some visits."""
    rows = "\n".join(f"| {row} |" for row in (HEADER, re.sub(r"[^|]+", "---", HEADER), *map(_row, visits)))
    wrong = [f"* {visit.species}: {problem}" for visit in visits for problem in visit.wrong]
    return f"""# The zoo

Written by `make zoo`, with torch {version("torch")}, transformers {version("transformers")} and
timm {version("timm")}.

Every model is built from a configuration, tiny, with random weights; every group of channels that nothing pins is
widened and narrowed by one unit (a channel, a head, a group of query heads, a gate unit); the heads of one attention
of each kind get two channels more, and two less; one layer is inserted, one removed and one skip added. After each
surgery the outputs are compared with what they should be (after widening and insertion: what they were; after
narrowing: those of the model in which nothing reads the unit that went), 20 steps of Adam are taken, and the model is
rolled back, which must give back the whole state bit for bit; the version is replayed in another process, which must
come to the same bytes. Models that can be compiled as one graph must still be after every surgery.

{rows}

In all {_in_all(visits, "grow")} widened, {_in_all(visits, "shrink")} narrowed; heads of
{_in_all(visits, "larger heads")} made larger, of {_in_all(visits, "smaller heads")} made smaller.

Outputs are compared in single precision, relative to the largest; sums in another order may move them by 2e-6. Where
a norm runs over the channels that grew, its scale and its epsilon are set so that the outputs stay as well as they
can: that is the column "under norms". They can't stay where the norm's own output enters the stream that it is to
see unchanged (BERT, the stems of ConvNeXt and Swin), or where each channel passes a nonlinearity by itself (the token
mixing of Mixer). After narrowing such a group nothing says what the outputs should be.

## What was wrong

{chr(10).join(wrong) or "Nothing."}

## What was refused, and why

{_counted((visit.species, f"{o.surgery}: {_shortened(o.refused)}") for visit in visits for o in visit.refused)}

## What is pinned, and why

{_counted((visit.species, _shortened(pin)) for visit in visits for pin in visit.pins)}
"""


def _in_all(visits: Sequence[Visit], surgery: str) -> str:
    tried = [outcome for visit in visits for outcome in visit.of(surgery)]
    return f"{sum(not outcome.refused for outcome in tried)} of {len(tried)} groups were"


def _row(visit: Visit) -> str:
    exact = sum(moved == 0 for moved in visit.moved)
    cells = (
        visit.species,
        f"{visit.parameters:,}",
        str(len(visit.of("grow"))),
        str(len(visit.pins)),
        *(visit.done(kind) for kind in SURGERIES),
        f"{max(visit.moved, default=0.0):.0e}".replace("0e+00", "0"),
        f"{exact}/{len(visit.moved)}",
        f"{max(visit.moved_under_norms):.0e}" if visit.moved_under_norms else "-",
        f"{visit.replays - len(visit.differing)}/{visit.replays}",
        "yes" if visit.compiles else "never did",
        f"{visit.milliseconds:.0f}",
    )
    return " | ".join(cells)


def _shortened(reason: str) -> str:
    """Return a reason without the numbers that differ between like cases."""
    return re.sub(r"\d+(, \d+)*", "N", reason)[:300].replace("|", "/")


def _counted(reasons: Iterable[tuple[str, str]]) -> str:
    counts = Counter(reasons)
    return (
        "\n".join(f"* {species} ({count}): {reason}" for (species, reason), count in counts.items())
        or "Nothing."
    )
