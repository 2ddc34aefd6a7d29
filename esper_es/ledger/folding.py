"""The JSON of a fact as it is stored: what its edits have in common is written once."""

from __future__ import annotations

from esper_es.domain.canonical import Json
from esper_es.ledger.edit_series import folded_edits, unfolded_edits
from esper_es.ledger.shared_maps import with_shared_maps, without_shared_maps

_EDITS = "edits"


def folded(fact: dict[str, Json]) -> dict[str, Json]:
    """Return the JSON of a fact as it is to be stored."""
    if not fact.get(_EDITS):
        return fact
    return with_shared_maps({**fact, _EDITS: folded_edits(fact[_EDITS])})


def unfolded(fact: dict[str, Json]) -> dict[str, Json]:
    """Return the JSON of a fact, with every edit and every map in its place.

    Raises:
        Unreadable: if the stored one does not make sense.
    """
    if not isinstance(fact.get(_EDITS), list):
        return fact
    plain = without_shared_maps(fact)
    edits = unfolded_edits(plain[_EDITS], f"fact.{_EDITS}")
    return plain if edits is plain[_EDITS] else {**plain, _EDITS: edits}
