"""Bringing the user's own module object to another structure, as rollback and resume need.

The target is a module rebuilt from the log. What both have stays the same object in the live one; what only
the target has is taken from it; what only the live one has goes. Bytes come from a capture afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from attrs import field, frozen
from torch import nn

from esper_es.domain.errors import ReplayError
from esper_es.projections.live.attributes import align_attributes
from esper_es.projections.live.describe import connections_of, describe
from esper_es.projections.live.fused_paths import step_aside, step_back
from esper_es.projections.live.hosting import STANDING, original_class
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.kinds import kind_of
from esper_es.projections.live.names import named_tensors, parent_of, tensor_at
from esper_es.projections.live.wiring import rehost, suit_heads, without

_OF_EVERY_MODULE = frozenset(nn.Module().__dict__)
"""Attributes that are not a module's own configuration."""


def realign(live: nn.Module, target: nn.Module, journal: Journal) -> None:
    """Make ``live`` structurally equal to ``target``; ``target`` must not be used afterwards.

    Raises:
        ReplayError: if the two roots are of different classes.
    """
    if original_class(live) is not original_class(target):
        raise ReplayError(
            f"the live model is a {original_class(live).__qualname__}, the log builds another class, "
            f"{original_class(target).__qualname__}: was it defined anew? Attach a model that the blueprint builds"
        )
    wanted = connections_of(target)
    for connection in connections_of(live):
        without(journal, live, connection.id)
    for connection in wanted:
        without(Journal(), target, connection.id)
    device = next((tensor.device for tensor in (*live.parameters(), *live.buffers())), torch.device("cpu"))
    ties = describe(target).ties
    mine = {id(tensor) for _, tensor, _ in named_tensors(live)}
    _align(live, target.to(device), _Counterparts(journal))
    _tie(live, ties, mine, journal)
    for connection in wanted:
        for path in dict.fromkeys((connection.source, connection.target)):
            rehost(journal, live, path, connection)
    for path, module in live.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            suit_heads(journal, live, path)
        if STANDING in module._forward_hooks:
            step_aside(journal, live, path, STANDING)
    step_back(journal, live)


@frozen(eq=False)
class _Counterparts:
    """Which live object stands for which of the target.

    Attributes:
        journal: takes how to undo it all.
        modules: by the identity of the target's module.
        tensors: identity of the target's tensor by that of the live one.
    """

    journal: Journal
    modules: dict[int, nn.Module] = field(factory=dict)
    tensors: dict[int, int] = field(factory=dict)


def _align(live: nn.Module, target: nn.Module, known: _Counterparts) -> None:
    known.modules[id(target)] = live
    _align_config(live, target, known.journal)
    _align_standing(live, target, known.journal)
    _align_tensors(live, target, known)
    children: dict[str, nn.Module | None] = {}
    for name, wanted in target._modules.items():
        present = live._modules.get(name)
        if wanted is None:
            children[name] = None
        elif id(wanted) in known.modules:
            children[name] = known.modules[id(wanted)]
        elif present is not None and original_class(present) is original_class(wanted):
            children[name] = present
            _align(present, wanted, known)
        else:
            children[name] = wanted
            known.modules[id(wanted)] = wanted
    if list(live._modules.items()) != list(children.items()):
        known.journal.replace_items(live._modules, children)


def _tie(live: nn.Module, ties: Mapping[str, str], mine: set[int], journal: Journal) -> None:
    """Tie tensors again; where only some of their layers were there, to the tensor that these have.

    Args:
        live: of the right structure already.
        ties: origin of each second name.
        mine: identities of the tensors that the live module had.
        journal: takes how to undo it.
    """
    for origin in dict.fromkeys(ties.values()):
        names = [origin, *(name for name, tied in ties.items() if tied == origin)]
        tensors = [tensor_at(live, name) for name in names]
        kept = next((tensor for tensor in tensors if id(tensor) in mine), tensors[0])
        for name, tensor in zip(names, tensors, strict=True):
            if tensor is not kept:
                owner, local = parent_of(live, name)
                held = owner._parameters if local in owner._parameters else owner._buffers
                journal.set_item(held, local, kept)


def _align_standing(live: nn.Module, target: nn.Module, journal: Journal) -> None:
    """Let a module stand in the place of another where its counterpart does, and nowhere else."""
    if (STANDING in live._forward_hooks) != (STANDING in target._forward_hooks):
        hooks = {key: hook for key, hook in live._forward_hooks.items() if key != STANDING}
        if STANDING in target._forward_hooks:
            hooks[STANDING] = target._forward_hooks[STANDING]
        journal.replace_items(live._forward_hooks, hooks)


def _align_config(live: nn.Module, target: nn.Module, journal: Journal) -> None:
    """Give a module of another config all plain attributes of its rebuilt twin, derived ones included."""
    align_attributes(live, target, journal)
    kind = kind_of(live)
    if kind is None:
        return
    if kind.read(live) == kind.read(target):
        return
    for name, value in target.__dict__.items():
        if name not in _OF_EVERY_MODULE:
            journal.set_attribute(live, name, value)


def _align_tensors(live: nn.Module, target: nn.Module, known: _Counterparts) -> None:
    """Give the live module the tensors that the target has, keeping the objects that are there.

    One that stands for another tensor already, because it is tied and the target's are not, is not kept.
    """
    journal = known.journal
    for mine, theirs in ((live._parameters, target._parameters), (live._buffers, target._buffers)):
        for name, wanted in theirs.items():
            present = mine.get(name)
            if present is None or wanted is None:
                if present is not wanted:
                    journal.set_item(mine, name, wanted)
            elif known.tensors.setdefault(id(present), id(wanted)) != id(wanted):
                journal.set_item(mine, name, wanted)
            elif present.shape != wanted.shape:
                journal.set_storage(present, wanted.data)
        for name in set(mine) - set(theirs):
            entries = {key: value for key, value in mine.items() if key != name}
            journal.replace_items(mine, entries)
