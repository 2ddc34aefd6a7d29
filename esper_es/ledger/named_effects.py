"""What became of tensors, by name, as it is stored: names that differ in numbers only are written once.

``{"h.{i}.fc.weight": {"effect": "resized", "i": [[0, 12]]}}`` stands for twelve tensors, ``{"wte.weight": "resized"}``
for one (``numbered_names``).
"""

from __future__ import annotations

from typing import Final

from esper_es.domain.canonical import Json
from esper_es.ledger.edit_series import FEWEST, MOST
from esper_es.ledger.numbered_names import Name, patterned, spelled
from esper_es.ledger.unreadable import Unreadable

_EFFECT: Final = "effect"


def folded_effects(effects: dict[str, str]) -> dict[str, Json]:
    """Return effects with those of like names under one pattern, which goes where its first name was."""
    alike: dict[tuple[tuple[str, ...], str], dict[str, Name]] = {}
    for text, effect in effects.items():
        name = Name.of(text)
        if name is not None:
            alike.setdefault((name.texts, effect), {})[text] = name
    series: dict[str, tuple[str, Json] | None] = {}
    patterns = set(effects)
    for (_, effect), names in alike.items():
        if len(names) < FEWEST:
            continue
        pattern, numbers = patterned(list(names.values()))
        if pattern not in patterns:
            patterns.add(pattern)
            series |= dict.fromkeys(names)
            series[next(iter(names))] = pattern, {_EFFECT: effect, **numbers}
    entries = (series.get(text, (text, effect)) for text, effect in effects.items())
    return dict(entry for entry in entries if entry is not None)


def unfolded_effects(effects: dict[str, Json], where: str) -> dict[str, Json]:
    """Return the effect of each name.

    Raises:
        Unreadable: if a pattern does not make sense, or a name has two effects.
    """
    if not any(isinstance(effect, dict) for effect in effects.values()):
        return effects
    plain: dict[str, Json] = {}
    count = 0
    for text, effect in effects.items():
        names = [text]
        if isinstance(effect, dict):
            numbers = {letter: runs for letter, runs in effect.items() if letter != _EFFECT}
            names = spelled(text, numbers, MOST - count, f"{where}[{text!r}]")
            effect = effect.get(_EFFECT)
        count += len(names)
        plain |= dict.fromkeys(names, effect)
    if len(plain) != count:
        raise Unreadable(f"{where} tells of a name twice")
    return plain
