"""Optimizer state that follows surgery: kept, resized by the same gather map, joined, removed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch.optim import Optimizer

from esper_es.domain.errors import Refused
from esper_es.domain.index_map import NEW, IndexMap
from esper_es.projections.live.gather import gathered
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.live import Live

FIRST_MOMENTS = frozenset(("exp_avg", "momentum_buffer", "grad_avg", "prev", "ax"))
"""State that points somewhere: new entries start at zero. All other state (second moments) is cloned."""


def check_separable(optimizer: Optimizer) -> None:
    """Check that the optimizer keeps its state parameter by parameter.

    Raises:
        Refused: for LBFGS, which keeps one flat history over all parameters.
    """
    if isinstance(optimizer, torch.optim.LBFGS):
        raise Refused(
            f"{type(optimizer).__name__} keeps one flat history over all parameters, which can't follow a change of "
            "structure; use another optimizer, or make a new one after the surgery",
            "optimizer_state",
        )


def check_supported(optimizer: Optimizer, parameter: torch.Tensor, name: str) -> None:
    """Check that a parameter's optimizer state can follow a resize.

    Raises:
        Refused: naming the optimizer and the state that can't.
    """
    for key, value in optimizer.state.get(parameter, {}).items():
        if isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape != parameter.shape:
            raise Refused(
                f"{type(optimizer).__name__} keeps state {key!r} of shape {tuple(value.shape)} for {name!r} "
                f"of shape {tuple(parameter.shape)}; it can't be resized with it",
                "optimizer_state",
            )
        if not isinstance(value, (torch.Tensor, int, float, bool, type(None))):
            raise Refused(
                f"{type(optimizer).__name__} keeps state {key!r} ({type(value).__name__}) for {name!r}; "
                "it can't be resized with it",
                "optimizer_state",
            )


def check_joinable(optimizer: Optimizer, name: str, shape: tuple[int, ...]) -> None:
    """Check that an optimizer takes a new parameter.

    Raises:
        Refused: for Muon, which steps matrices only (Jordan et al. 2024), and anything else.
    """
    if isinstance(optimizer, torch.optim.Muon) and len(shape) != 2:
        raise Refused(
            f"Muon steps matrices only, and {name!r} of shape {shape} would join its parameters; choose a layer "
            "without a bias, or an optimizer that takes both",
            "optimizer_state",
        )


def resize_state(
    journal: Journal,
    optimizer: Optimizer,
    parameter: torch.Tensor,
    old_shape: torch.Size,
    dim: int,
    gather: IndexMap,
) -> None:
    """Resize a parameter's state like the parameter: survivors keep theirs.

    New entries of first moments are zero; those of second moments are cloned from the nearest survivor in
    front, so that new weights do not take outsized steps under an old step count.
    """
    state = optimizer.state.get(parameter)
    if not state:
        return
    for key, value in list(state.items()):
        if not isinstance(value, torch.Tensor) or value.shape != old_shape:
            continue
        source = gather if key in FIRST_MOMENTS else _with_neighbours(gather)
        journal.set_item(state, key, gathered(value, dim, source, None))


@lru_cache
def _with_neighbours(gather: IndexMap) -> IndexMap:
    """Let each new index come from where the one in front of it comes from, the first ones from the first survivor."""
    runs: list[tuple[int, int]] = []
    last = next((start for start, _ in gather.runs if start != NEW), NEW)
    for start, length in gather.runs:
        if start == NEW:
            runs += [(last, 1)] * length
        else:
            runs.append((start, length))
            last = start + length - 1
    return IndexMap(tuple(runs))


def join_group(
    journal: Journal, optimizer: Optimizer, parameters: Iterable[torch.Tensor], group: int
) -> None:
    """Append parameters to an existing group (new groups break LambdaLR and OneCycleLR).

    Fused SGD can't step parameters with and without a momentum buffer together (torch 2.13), so that new ones begin
    with zeros there.
    """
    target: list[Any] = optimizer.param_groups[group]["params"]
    joining = list(parameters)
    _give_first_state(journal, optimizer, joining, group)
    if optimizer.param_groups[group].get("fused") and any(
        "momentum_buffer" in optimizer.state.get(parameter, {}) for parameter in target
    ):
        for parameter in joining:
            journal.set_item(optimizer.state, parameter, {"momentum_buffer": torch.zeros_like(parameter)})
    journal.replace_list(target, [*target, *joining])


def _give_first_state(
    journal: Journal, optimizer: Optimizer, parameters: Iterable[torch.Tensor], group: int
) -> None:
    """Give parameters the state that they have before their first step: Adagrad's, which torch up to 2.12 makes along
    with the optimizer and misses later."""
    if not isinstance(optimizer, torch.optim.Adagrad):
        return
    terms = {name: optimizer.param_groups[group][name] for name in optimizer.defaults}
    for parameter in parameters:
        state = torch.optim.Adagrad([parameter], **terms).state.get(parameter)
        if state:
            journal.set_item(optimizer.state, parameter, state)


def leave_groups(journal: Journal, optimizer: Optimizer, parameters: Iterable[torch.Tensor]) -> None:
    """Take parameters and their state out of the optimizer."""
    gone = {id(parameter) for parameter in parameters}
    for group in optimizer.param_groups:
        left = [p for p in group["params"] if id(p) not in gone]
        if len(left) != len(group["params"]):
            journal.replace_list(group["params"], left)
    state = {p: entries for p, entries in optimizer.state.items() if id(p) not in gone}
    if len(state) != len(optimizer.state):
        journal.replace_items(optimizer.state, state)


def holds_strangers(live: Live) -> bool:
    """Say whether the optimizer holds parameters that are not the model's."""
    own = {id(parameter) for parameter in live.module.parameters()}
    groups = () if live.optimizer is None else live.optimizer.param_groups
    return any(id(parameter) not in own for group in groups for parameter in group["params"])


def begin_anew(live: Live, journal: Journal) -> None:
    """Empty the optimizer's state, and let its groups hold what the model holds.

    Parameters that are gone leave; trainable ones that no group holds join, each where its layer's others are.
    """
    optimizer = live.optimizer
    if optimizer is None:
        return
    own = {id(parameter) for parameter in live.module.parameters()}
    leave_groups(
        journal, optimizer, [p for g in optimizer.param_groups for p in g["params"] if id(p) not in own]
    )
    journal.replace_items(optimizer.state, {})
    for index, held_before in enumerate(optimizer.param_groups):
        _give_first_state(journal, optimizer, held_before["params"], index)
    for module in live.module.modules():
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in held:
                group = group_for(optimizer, parameter, module.parameters(recurse=False))
                join_group(journal, optimizer, [parameter], group)


def group_for(optimizer: Optimizer, parameter: torch.Tensor, neighbours: Iterable[torch.Tensor]) -> int:
    """Return the index of the group that a new parameter joins.

    Groups by depth and groups by kind (weights decay, biases and norms do not) are both common. So it is the
    group of a neighbour, if that holds parameters of the same kind; else the first that does; else the first
    neighbour's.

    Args:
        optimizer: with at least one group.
        parameter: the new one.
        neighbours: parameters of the layer beside it; none when that has none.
    """
    beside = {id(p) for p in neighbours}
    groups = [group["params"] for group in optimizer.param_groups]
    near = [index for index, members in enumerate(groups) if any(id(p) in beside for p in members)]
    alike = [index for index, members in enumerate(groups) if any(_alike(p, parameter) for p in members)]
    return next((index for index in near if index in alike), next(iter((*alike, *near)), 0))


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (one.ndim > 1) == (other.ndim > 1)
