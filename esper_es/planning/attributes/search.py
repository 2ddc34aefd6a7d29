"""The search for integers of user code that must follow a changed width, each try proven by a second trace."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import combinations

from torch import nn

from esper_es.domain.edits import SetAttribute
from esper_es.domain.errors import Refused, UsageError
from esper_es.planning.attributes.options import CONFIG, Option, options
from esper_es.planning.attributes.reads import Uses, watched_attributes
from esper_es.planning.resizing import Resizing
from esper_es.planning.trial import tried_blank

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

    Attributes that a forward pass writes are its own affair. Those that none reads are set if they can only count
    what changes. Those that one reads are set if the proof demands it and not otherwise, as they may scale what the
    model computes: first none, then all that can only count what changes, then growing combinations.

    Where no forward pass reads any, nothing is tried: the proof of the whole plan decides.

    Raises:
        Refused: if no combination is right, with what is wrong with the first one.
    """
    found = options(shadow, resizings)
    if not found:
        return ()
    uses = _uses(shadow, found, run)
    found = tuple(option for option in found if not _among(option, uses.written))
    idle = [option for option in found if option.sure and not _among(option, uses.read)]
    read = [option for option in found if _among(option, uses.read)]
    if not read:
        return _edits(idle)

    def wrong(chosen: Sequence[Option]) -> str | None:
        return _wrong(shadow, resizings, [*known, *_edits([*chosen, *idle])], prove)

    reason = wrong(())
    if reason is None:
        return _edits(idle)
    sure = [option for option in read if option.sure]
    if sure and wrong(sure) is None:
        return _edits([*_fewest(sure, wrong), *idle])
    for choice in _choices(sorted(read, key=lambda option: (not option.sure, not option.near))):
        if wrong(choice) is None:
            return _edits([*choice, *idle])
    tried = dict.fromkeys(f"{option.cls}.{option.name}" for option in read)
    some = f"{', '.join(list(tried)[:6])}{' and others' if len(tried) > 6 else ''}"
    raise Refused(
        f"the model's own code fixes this width: {reason}. Of the numbers that it reads and that could count the "
        f"width, no choice that was tried is right ({some})",
        "fixed_width",
    )


def _fewest(enough: Sequence[Option], wrong: Callable[[Sequence[Option]], str | None]) -> list[Option]:
    """Leave out what is not needed, one after another."""
    kept = list(enough)
    for option in enough if len(enough) > 1 else ():
        fewer = [other for other in kept if other is not option]
        if wrong(fewer) is None:
            kept = fewer
    return kept


def _edits(chosen: Iterable[Option]) -> tuple[SetAttribute, ...]:
    """Edits of options, the first one for each attribute."""
    edits: dict[tuple[str, str], SetAttribute] = {}
    for option in chosen:
        for edit in option.edits:
            edits.setdefault((edit.path, edit.name), edit)
    return tuple(edits.values())


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
    places = {(edit.path, edit.name.rpartition(".")[0]) for option in found for edit in option.edits}
    modules = {path: shadow.get_submodule(path) for path, _ in sorted(places)}
    owners = {
        place: getattr(modules[place[0]], CONFIG) if place[1] else modules[place[0]] for place in places
    }
    with watched_attributes(owners) as uses:
        run()
    return uses


def _among(option: Option, places: Collection[tuple[str, str]]) -> bool:
    return any((edit.path, edit.name) in places for edit in option.edits)


def _wrong(
    shadow: nn.Module, resizings: Sequence[Resizing], attributes: Sequence[SetAttribute], prove: Prove
) -> str | None:
    """Try attributes on the copy and take them back; return what is wrong with them."""
    try:
        findings = tried_blank(shadow, resizings, attributes, prove)
    except UsageError as error:
        return str(error)
    return "; ".join(findings[:3]) or None
