"""The JSON of a fact as it is stored: what its edits, or its effects, have in common is written once."""

from __future__ import annotations

from typing import Final

from esper_es.domain.canonical import Json
from esper_es.ledger.edit_series import folded_edits, unfolded_edits
from esper_es.ledger.named_effects import folded_effects, unfolded_effects
from esper_es.ledger.shared_maps import with_shared_maps, without_shared_maps

_EDITS: Final = "edits"
_EFFECTS: Final = "effects"
_OPTIMIZER: Final = "optimizer"


def folded(fact: dict[str, Json]) -> dict[str, Json]:
    """Return the JSON of a fact as it is to be stored."""
    if not fact.get(_EDITS):
        return fact
    shared = with_shared_maps({**fact, _EDITS: folded_edits(fact[_EDITS])})
    effects = fact.get(_EFFECTS)
    if effects is not None:
        shared[_EFFECTS] = {**effects, _OPTIMIZER: folded_effects(effects[_OPTIMIZER])}
    return shared


def unfolded(fact: dict[str, Json]) -> dict[str, Json]:
    """Return the JSON of a fact, with every edit, map and effect in its place.

    Raises:
        Unreadable: if the stored one does not make sense.
    """
    if not isinstance(fact.get(_EDITS), list):
        return fact
    plain = dict(without_shared_maps(fact))
    plain[_EDITS] = unfolded_edits(plain[_EDITS], f"fact.{_EDITS}")
    effects = fact.get(_EFFECTS)
    if isinstance(effects, dict) and isinstance(effects.get(_OPTIMIZER), dict):
        optimizer = unfolded_effects(effects[_OPTIMIZER], f"fact.{_EFFECTS}.{_OPTIMIZER}")
        plain[_EFFECTS] = {**effects, _OPTIMIZER: optimizer}
    return plain
