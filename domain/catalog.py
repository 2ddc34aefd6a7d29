"""Stored names of facts. A name and schema version, once released, mean the same for ever.

To change a fact's shape: raise its schema version here and add an upcaster that turns the JSON of the old
version into the JSON of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import frozen

from esper_es.domain import facts
from esper_es.domain.canonical import Json
from esper_es.domain.errors import LedgerError
from esper_es.domain.facts import Fact
from esper_es.domain.index_map import IndexMap

Upcaster = Callable[[dict[str, Json]], dict[str, Json]]


@frozen
class Entry:
    """How a fact class is stored."""

    name: str
    schema: int
    cls: type[Fact]


ENTRIES: tuple[Entry, ...] = (
    Entry("model.registered", 4, facts.ModelRegistered),
    Entry("run.resumed", 2, facts.RunResumed),
    Entry("state.captured", 1, facts.StateCaptured),
    Entry("state.captures_released", 1, facts.CapturesReleased),
    Entry("state.rolled_back", 2, facts.RolledBack),
    Entry("surgery.layer_added", 3, facts.LayerAdded),
    Entry("surgery.layer_removed", 3, facts.LayerRemoved),
    Entry("surgery.layer_width_modified", 4, facts.LayerWidthModified),
    Entry("surgery.skip_connection_added", 3, facts.SkipConnectionAdded),
    Entry("surgery.skip_connection_removed", 3, facts.SkipConnectionRemoved),
    Entry("surgery.refused", 1, facts.SurgeryRefused),
    Entry("seed.planted", 1, facts.SeedPlanted),
    Entry("seed.inherited", 1, facts.SeedInherited),
    Entry("seed.germinated", 3, facts.SeedGerminated),
    Entry("seed.advanced", 3, facts.SeedAdvanced),
    Entry("seed.alpha_changed", 3, facts.AlphaChanged),
    Entry("seed.culled", 3, facts.SeedCulled),
    Entry("seed.fossilized", 3, facts.SeedFossilized),
    Entry("clock.epoch_ended", 1, facts.EpochEnded),
    Entry("clock.training_continued", 2, facts.TrainingContinued),
    Entry("watch.opened", 1, facts.WatchOpened),
    Entry("watch.closed", 1, facts.WatchClosed),
    Entry("decision.received", 1, facts.DecisionReceived),
    Entry("decision.settled", 1, facts.DecisionSettled),
)

BY_CLASS: Mapping[type[Fact], Entry] = {entry.cls: entry for entry in ENTRIES}
BY_NAME: Mapping[str, Entry] = {entry.name: entry for entry in ENTRIES}


def _with(**added: Json) -> Upcaster:
    """Return an upcaster for fields that came with the next schema; each value says what was so before."""
    return lambda body: {**body, **added}


def _as_it_was(body: dict[str, Json]) -> dict[str, Json]:
    """The next schema only lets a row share what its edits have in common (``ledger/folding.py``)."""
    return body


def _slices_by_themselves(body: dict[str, Json]) -> dict[str, Json]:
    """The next schema lets the slices of several tensors lie in one; each was stored by itself before."""
    return {**body, "edits": [_with_own_slices(edit) for edit in body["edits"]]}


def _with_own_slices(edit: dict[str, Json]) -> dict[str, Json]:
    if edit.get("fill") is not None:
        return {**edit, "fill": {**edit["fill"], "offset": None}}
    if "initial" in edit:
        fills = {name: {**fill, "offset": None} for name, fill in edit["initial"]["fills"].items()}
        return {**edit, "initial": {**edit["initial"], "fills": fills}}
    return edit


def _kept_units_in_runs(body: dict[str, Json]) -> dict[str, Json]:
    kept = body["kept_units"]
    runs = None if kept is None else [list(run) for run in IndexMap.of(kept).runs]
    return {**body, "kept_units": runs}


UPCASTERS: Mapping[tuple[str, int], Upcaster] = {
    ("model.registered", 1): _with(examples=None),
    ("model.registered", 2): _as_it_was,
    ("model.registered", 3): _slices_by_themselves,
    ("clock.training_continued", 1): _with(moved=[]),
    ("run.resumed", 1): _with(left_out=[], fresh=[]),
    ("state.rolled_back", 1): _with(left_out=[], fresh=[]),
    ("surgery.layer_added", 1): _as_it_was,
    ("surgery.layer_added", 2): _slices_by_themselves,
    ("surgery.layer_removed", 1): _as_it_was,
    ("surgery.layer_removed", 2): _slices_by_themselves,
    ("surgery.layer_width_modified", 1): _with(dimension=None, units=None, method=""),
    ("surgery.layer_width_modified", 2): _kept_units_in_runs,
    ("surgery.layer_width_modified", 3): _slices_by_themselves,
    ("surgery.skip_connection_added", 1): _as_it_was,
    ("surgery.skip_connection_added", 2): _slices_by_themselves,
    ("surgery.skip_connection_removed", 1): _as_it_was,
    ("surgery.skip_connection_removed", 2): _slices_by_themselves,
    ("seed.germinated", 1): _as_it_was,
    ("seed.germinated", 2): _slices_by_themselves,
    ("seed.advanced", 1): _as_it_was,
    ("seed.advanced", 2): _slices_by_themselves,
    ("seed.alpha_changed", 1): _as_it_was,
    ("seed.alpha_changed", 2): _slices_by_themselves,
    ("seed.culled", 1): _as_it_was,
    ("seed.culled", 2): _slices_by_themselves,
    ("seed.fossilized", 1): _as_it_was,
    ("seed.fossilized", 2): _slices_by_themselves,
}
"""``(name, old schema)`` to the function that yields the JSON of schema + 1."""


def entry_named(name: str, schema: int) -> Entry:
    """Return how a stored fact is to be read.

    Raises:
        LedgerError: if this release does not know the name, or only older versions of it.
    """
    entry = BY_NAME.get(name)
    if entry is None:
        raise LedgerError(
            f"the log holds a fact {name!r} that this release does not know; "
            "it was written by a newer release: upgrade esper-es"
        )
    if schema > entry.schema:
        raise LedgerError(
            f"the log holds version {schema} of fact {name!r}, this release reads up to {entry.schema}; "
            "upgrade esper-es"
        )
    return entry


def upcast(entry: Entry, schema: int, body: dict[str, Json]) -> dict[str, Json]:
    """Carry a stored body forward to the current schema of its fact.

    Raises:
        LedgerError: if an upcaster is missing.
    """
    while schema < entry.schema:
        step = UPCASTERS.get((entry.name, schema))
        if step is None:
            raise LedgerError(f"no upcaster from version {schema} of fact {entry.name!r}")
        body, schema = step(body), schema + 1
    return body
