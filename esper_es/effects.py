"""What a change does, measured on the copy on which it was tried."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from esper_es.domain.architecture import Architecture, TensorSpec, join_path, relative_path
from esper_es.domain.edits import (
    AddModule,
    Edit,
    RemoveModule,
    ReplaceModule,
    ResizeTensor,
    ScaleSlice,
    ScaleTensor,
)
from esper_es.domain.facts import Effects
from esper_es.planning.execution import outputs_unwatched
from esper_es.projections.live.live import Live
from esper_es.projections.live.names import tensor_at
from esper_es.validators import Trial, ValidationResult


def effects_of(
    live: Live,
    before: Architecture,
    edits: Sequence[Edit],
    after: Architecture,
    trial: Trial,
    shadow: nn.Module,
    verdicts: Sequence[ValidationResult],
) -> Effects:
    """Return the effects of edits that were tried on ``shadow`` and found valid; the live objects are only read."""
    outputs = outputs_unwatched(shadow, trial.examples, trial.observe(shadow))
    outputs_before = () if trial.before is None else trial.before.outputs
    return Effects(
        output_difference=output_difference(outputs_before, outputs),
        parameters_before=before.parameter_count,
        parameters_after=after.parameter_count,
        bytes_before=before.nbytes,
        bytes_after=after.nbytes,
        memory_bytes=next(v.details["memory_bytes"] for v in verdicts if "memory_bytes" in v.details),
        graph_depth=trial.graph_depth,
        optimizer=_optimizer_effects(live, edits),
        validators={v.check_name: "valid" for v in verdicts},
    )


PRESERVED = 1e-5
"""Relative difference of the outputs up to which a change counts as function-preserving: rounding in float32."""


def preserved(difference: float | None) -> bool | None:
    """Say whether outputs that differ so much are the same function; None where they can't be compared."""
    return None if difference is None else difference <= PRESERVED


def output_difference(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> float | None:
    """Return the largest absolute change over the largest absolute value.

    What is filled in to mask entries says nothing of the size of the others: infinities and NaN, which have to stay
    where they were, and numbers that did not move and are far larger than all that did.

    Returns:
        None where outputs can't be compared: other shapes, infinities elsewhere, nothing finite.
    """
    if [t.shape for t in before] != [t.shape for t in after] or not before:
        return None
    pairs = [(_wide(b), _wide(a)) for b, a in zip(before, after, strict=True) if b.numel()]
    if not pairs:
        return 0.0
    change = moving = staying = 0.0
    finite = False
    for b, a in pairs:
        stays = (b == a) | (b.isnan() & a.isnan())
        known = b.isfinite() & a.isfinite()
        if not bool((stays | known).all()):
            return None
        finite = finite or bool(known.any())
        moves = ~stays
        change = max(change, _largest(b[moves] - a[moves]))
        moving = max(moving, _largest(b[moves]), _largest(a[moves]))
        staying = max(staying, _largest(b[stays & known]))
    if not finite:
        return None
    filled_in = staying >= FILLED_IN and staying > LARGER * moving
    return change / (moving if filled_in else max(moving, staying)) if change else 0.0


FILLED_IN = 1e4
"""Size of the smallest numbers in use that mask entries, as in ``logits.masked_fill(mask, -1e4)``."""
LARGER = 1e3
"""How many times larger than what moved these are at least."""


def _largest(values: torch.Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _optimizer_effects(live: Live, edits: Sequence[Edit]) -> dict[str, str]:
    """Return what becomes of the optimizer state of each parameter that the edits touch."""
    if live.optimizer is None:
        return {}
    effects: dict[str, str] = {}
    for edit in edits:
        if isinstance(edit, (ResizeTensor, ScaleTensor, ScaleSlice)):
            if isinstance(tensor_at(live.module, edit.tensor), nn.Parameter):
                effects[edit.tensor] = "resized" if isinstance(edit, ResizeTensor) else "kept"
        elif isinstance(edit, AddModule):
            effects |= dict.fromkeys(new_parameters(edit), "new")
        elif isinstance(edit, RemoveModule):
            effects |= _of_removed(edit.path, live.module.get_submodule(edit.path))
        elif isinstance(edit, ReplaceModule):
            old = live.module.get_submodule(edit.path)
            effects |= (
                _of_removed(edit.path, old) | dict.fromkeys(new_parameters(edit), "new") | _of_kept(edit, old)
            )
    return effects


def new_parameters(edit: AddModule | ReplaceModule) -> dict[str, TensorSpec]:
    """Return the parameters that come with a module, by name; what it keeps of another one is none."""
    kept = edit.keep_as if isinstance(edit, ReplaceModule) and edit.keep is not None else None
    return {
        join_path(edit.path, name): spec
        for name, spec in edit.fragment.tensors()
        if spec.role == "parameter" and (kept is None or relative_path(name, kept) is None)
    }


def _of_removed(path: str, module: nn.Module) -> dict[str, str]:
    return {join_path(path, name): "removed" for name, _ in module.named_parameters()}


def _of_kept(edit: ReplaceModule, old: nn.Module) -> dict[str, str]:
    if edit.keep is None:
        return {}
    kept = old.get_submodule(edit.keep)
    return {join_path(edit.path, edit.keep_as, name): "kept" for name, _ in kept.named_parameters()}
