"""Planning ``add_layer``."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from esper_es.domain import rules
from esper_es.domain.canonical import Json
from esper_es.domain.edits import Fill
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.surgery_commands import add_layer
from esper_es.planning.capacity import require_room_for_layer
from esper_es.planning.layers.adapters import of_dtype
from esper_es.planning.layers.new_layers import given_layer
from esper_es.planning.layers.placement import place_after, placing_edits
from esper_es.planning.observation import Observation, in_eval
from esper_es.planning.scene import NewModule, Plan, Scene, new_module
from esper_es.projections.live.build import fragment_of, from_spec, wrapped
from esper_es.projections.live.modules import GatedResidual, Residual
from esper_es.projections.live.names import named_tensors

CONNECTION_TYPES = ("sequential", "residual")


def plan_add_layer(
    scene: Scene,
    *,
    after_layer: str,
    new_layer: nn.Module | Mapping[str, Json],
    layer_name: str,
    connection_type: str,
) -> Plan:
    """Insert a layer behind another.

    A layer given as a spec starts function-preserving where it can: as an identity (``sequential``, Net2Net,
    Chen et al. 2016), or with its last affine layer at zero (``residual``). A module keeps its own bytes; as a
    residual branch it comes in behind a gate that starts at zero (ReZero, Bachlechner et al. 2021).

    Raises:
        UsageError: for an unknown connection type, name or spec.
        Refused: if the layer is unknown or never runs, the new one does not fit, or a constraint forbids it.
    """
    if connection_type not in CONNECTION_TYPES:
        raise UsageError(f"connection_type is one of {', '.join(CONNECTION_TYPES)}, got {connection_type!r}")
    rules.check_frequency(scene.state)
    rules.check_layers_added(scene.state)
    scene.require_layer(after_layer)
    scene.require_outside_seeds(after_layer, slot_too=False)
    observation = scene.observe(take=[after_layer])
    place = place_after(scene, observation, after_layer, layer_name)
    dtype = observation.require_executed(after_layer)[0].dtype
    layer, kind = _new_layer(scene, new_layer, connection_type, place.path, dtype)
    _check_fits(layer, observation, after_layer, connection_type)
    added = _described(scene, layer, isinstance(new_layer, nn.Module), connection_type, place.path, dtype)
    return Plan(
        edits=placing_edits(scene, place, added, after_layer),
        tensors=added.tensors,
        executes=(place.path,),
        details={
            "after_layer": after_layer,
            "layer_name": layer_name,
            "path": place.path,
            "layer_type": type(layer).__name__,
            "connection_type": connection_type,
        },
        facts=partial(
            add_layer,
            layer_name=place.path,
            after_layer=after_layer,
            connection_type=connection_type,
            kind=kind,
        ),
    )


def _new_layer(
    scene: Scene,
    new_layer: nn.Module | Mapping[str, Json],
    connection_type: str,
    path: str,
    dtype: torch.dtype,
) -> tuple[nn.Module, str]:
    if isinstance(new_layer, nn.Module):
        layer = given_layer(new_layer, scene.live.module)
    else:
        require_room_for_layer(lambda: from_spec(new_layer, 0, "meta"), f"new layer {path!r}")
        layer = of_dtype(from_spec(new_layer, scene.seed(path)), dtype)
    if connection_type == "residual" and any(getattr(part, "inplace", False) for part in layer.modules()):
        raise Refused(
            "a residual layer must not work in place, for its input is added to its output; set inplace=False",
            "inplace",
        )
    return layer, fragment_of(layer).nodes[""].kind


def _check_fits(layer: nn.Module, observation: Observation, after_layer: str, connection_type: str) -> None:
    """Run the new layer alone on what the layer before it returns."""
    trial = copy.deepcopy(layer)
    for taken in observation.streams_of(after_layer):
        trial = trial.to(taken.device)
        try:
            with torch.no_grad():
                output = in_eval(trial, partial(trial, taken.clone()))
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise Refused(
                f"new layer {type(layer).__name__} is incompatible with the output {tuple(taken.shape)} of "
                f"{after_layer!r}: {error}{_of_other_dtype(layer, taken)}",
                "incompatible_shapes",
            ) from error
        if connection_type == "residual" and getattr(output, "shape", None) != taken.shape:
            raise Refused(
                f"new layer {type(layer).__name__} is incompatible with a residual connection: it maps "
                f"{tuple(taken.shape)} to {tuple(getattr(output, 'shape', ()))}, the shape must stay",
                "incompatible_shapes",
            )


def _of_other_dtype(layer: nn.Module, taken: torch.Tensor) -> str:
    dtypes = {p.dtype for p in layer.parameters() if p.is_floating_point()} - {taken.dtype}
    return f". Hand it over as new_layer.to({taken.dtype})" if dtypes else ""


def _described(
    scene: Scene, layer: nn.Module, given: bool, connection_type: str, path: str, dtype: torch.dtype
) -> NewModule:
    fills = {} if given else _preserving_fills(layer, connection_type)
    if connection_type == "sequential":
        return new_module(layer, fragment_of(layer), scene.seed(path), fills, given)
    if given:
        gated = GatedResidual(layer, dtype)
        return new_module(gated, fragment_of(gated), scene.seed(path), {}, given)
    fragment = wrapped("residual", {}, "body", fragment_of(layer))
    inside = {f"body.{name}": fill for name, fill in fills.items()}
    return new_module(Residual(layer), fragment, scene.seed(path), inside, given)


def _preserving_fills(layer: nn.Module, connection_type: str) -> dict[str, Fill]:
    """Return what to initialise otherwise than torch does, so that the model's function stays."""
    names = [name for name, _, role in named_tensors(layer) if role == "parameter"]
    if connection_type == "residual":
        return {name: Fill("zeros") for name in names if "." not in name}
    if isinstance(layer, nn.Linear) and layer.in_features == layer.out_features:
        return {name: Fill("identity" if name == "weight" else "zeros") for name in names}
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)) and _keeps_positions(layer):
        return {name: Fill("identity" if name == "weight" else "zeros") for name in names}
    return {}


def _keeps_positions(layer: nn.Conv1d | nn.Conv2d) -> bool:
    same = all(2 * p == d * (k - 1) and k % 2 for p, d, k in zip(
        layer.padding, layer.dilation, layer.kernel_size, strict=True
    )) if not isinstance(layer.padding, str) else layer.padding == "same"  # fmt: skip
    return same and set(layer.stride) == {1} and layer.in_channels == layer.out_channels and layer.groups == 1
