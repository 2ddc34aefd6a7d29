"""The search for integers of user code that must follow a changed width, each try proven by a second trace."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import combinations

from torch import nn

from esper_es.domain.edits import Edit, ResizeTensor, SetAttribute
from esper_es.domain.errors import Refused, UsageError
from esper_es.planning.attribute_options import Option, options
from esper_es.planning.attribute_reads import Uses, watched_attributes
from esper_es.planning.resizing import Resizing
from esper_es.projections.live.apply import apply_edits
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.live import Live
from esper_es.projections.live.material import Blank

logger = logging.getLogger(__name__)

TRIES = 48
"""Combinations of attributes that are tried before a width counts as fixed."""

Prove = Callable[[], tuple[str, ...]]


def searched(
    shadow: nn.Module,
    resizings: Sequence[Resizing],
    known: Sequence[SetAttribute],
    run: Callable[[], object],
    prove: Prove,
) -> tuple[SetAttribute, ...]:
    """Return the attributes of modules without an adapter that must be set, smallest set first.

    Attributes that a forward pass writes are its own affair. Those that can only count what changes are set at
    once. Of the others, those that a forward pass reads are tried in growing combinations until the proof accepts
    one; those that no forward reads stay.

    Where no forward pass reads any of the others, nothing is tried: the proof of the whole plan decides.

    Raises:
        Refused: if no combination is right, with what is wrong with the first one.
    """
    found = options(shadow, resizings)
    if not found:
        return ()
    uses = _uses(shadow, found, run)
    found = tuple(option for option in found if not _among(option, uses.written))
    sure = [edit for option in found if option.sure for edit in option.edits]
    read = [option for option in found if not option.sure and _among(option, uses.read)]
    if not read:
        return tuple(sure)
    reason = _wrong(shadow, resizings, [*known, *sure], prove)
    if reason is None:
        return tuple(sure)
    for choice in _choices(sorted(read, key=lambda option: not option.near)):
        chosen = [edit for option in choice for edit in option.edits]
        taken = {(edit.path, edit.name) for edit in chosen}
        chosen += [edit for edit in sure if (edit.path, edit.name) not in taken]
        if _wrong(shadow, resizings, [*known, *chosen], prove) is None:
            return tuple(chosen)
    raise Refused(f"the model's own code fixes this width: {reason}", "fixed_width")


def _choices(found: Sequence[Option]) -> Iterator[tuple[Option, ...]]:
    """Combinations of options, small ones first, that do not set one attribute twice; a bounded number."""
    tries = 0
    for size in range(1, len(found) + 1):
        for choice in combinations(found, size):
            places = [(edit.path, edit.name) for option in choice for edit in option.edits]
            if len(set(places)) < len(places):
                continue
            if tries == TRIES:
                logger.info("gave up after %d combinations of %d attributes", tries, len(found))
                return
            tries += 1
            yield choice


def _uses(shadow: nn.Module, found: Sequence[Option], run: Callable[[], object]) -> Uses:
    paths = {edit.path for option in found for edit in option.edits}
    with watched_attributes({path: shadow.get_submodule(path) for path in sorted(paths)}) as uses:
        run()
    return uses


def _among(option: Option, places: Collection[tuple[str, str]]) -> bool:
    return any((edit.path, edit.name) in places for edit in option.edits)


def _wrong(
    shadow: nn.Module, resizings: Sequence[Resizing], attributes: Sequence[SetAttribute], prove: Prove
) -> str | None:
    """Try attributes on the copy and take them back; return what is wrong with them."""
    edits: list[Edit] = [ResizeTensor(r.member.tensor, r.member.dim, r.gather, None) for r in resizings]
    journal = Journal()
    try:
        apply_edits(Live(shadow), [*edits, *attributes], Blank(), journal)
        findings = prove()
    except UsageError as error:
        return str(error)
    finally:
        journal.undo()
    return "; ".join(findings[:3]) or None
