"""Plain attributes of modules that the log keeps track of, beyond what their layer kinds show.

User code keeps integers about its tensors (``num_heads``, ``split_size``), and others that change as it runs
(counters, cached lengths). The log tells of an attribute from the moment a fact sets it: the module then carries
the attribute's name, copies and pickles included.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from esper_es.domain.canonical import Json
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.kinds import kind_of, plain, tupled

_TRACKED = "_esper_attributes"


def tracked(module: nn.Module) -> tuple[str, ...]:
    """Return the names of a module's attributes that facts have set."""
    names: tuple[str, ...] = module.__dict__.get(_TRACKED, ())
    return names


def tracked_values(module: nn.Module) -> dict[str, Json]:
    """Return a module's tracked attributes as JSON."""
    return {name: plain(attribute(module, name)) for name in tracked(module)}


def attribute(module: nn.Module, name: str) -> Any:
    """Return an attribute; a dotted name reaches into a plain object that the module holds.

    Raises:
        KeyError: if it is no attribute of the instance.
    """
    owner, leaf = _owner(module, name)
    return owner.__dict__[leaf]


def set_attribute(journal: Journal, module: nn.Module, name: str, value: Json) -> None:
    """Set an attribute and keep track of it; lists stay lists, tuples tuples.

    Raises:
        KeyError: if the object that a dotted name reaches into is not there.
    """
    owner, leaf = _owner(module, name)
    present = owner.__dict__.get(leaf)
    journal.set_attribute(owner, leaf, list(value) if isinstance(present, list) else tupled(value))
    kind = kind_of(module)
    if name not in tracked(module) and (kind is None or name not in kind.readers):
        _track(journal, module, (*tracked(module), name))


def align_attributes(live: nn.Module, target: nn.Module, journal: Journal) -> None:
    """Give ``live`` the tracked attributes of ``target``, and the values there of those that it alone tracks.

    An attribute that only edits brought goes where ``target`` lacks it.
    """
    names = tracked(target)
    for name in dict.fromkeys((*names, *tracked(live))):
        (owner, leaf), (theirs, _) = _owner(live, name), _owner(target, name)
        if leaf not in theirs.__dict__:
            journal.replace_items(owner.__dict__, {k: v for k, v in owner.__dict__.items() if k != leaf})
        elif leaf not in owner.__dict__ or owner.__dict__[leaf] != theirs.__dict__[leaf]:
            journal.set_attribute(owner, leaf, theirs.__dict__[leaf])
    if tracked(live) != names:
        _track(journal, live, names)


def forget_attributes(module: nn.Module) -> None:
    """Take the names of tracked attributes off a copy that no log follows."""
    module.__dict__.pop(_TRACKED, None)


def _track(journal: Journal, module: nn.Module, names: tuple[str, ...]) -> None:
    if names:
        journal.set_item(module.__dict__, _TRACKED, names)
    else:
        attributes = {key: value for key, value in module.__dict__.items() if key != _TRACKED}
        journal.replace_items(module.__dict__, attributes)


def _owner(module: nn.Module, name: str) -> tuple[Any, str]:
    owner: Any = module
    *path, leaf = name.split(".")
    for step in path:
        owner = owner.__dict__[step]
    return owner, leaf
