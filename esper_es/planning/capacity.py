"""Refusing what would not fit, by arithmetic, before anything of it is allocated."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

import torch
from attrs import evolve
from torch import nn

from esper_es.domain import rules
from esper_es.domain.architecture import TensorSpec
from esper_es.domain.errors import Refused
from esper_es.domain.state import ModelState
from esper_es.projections.live.describe import devices_of
from esper_es.tracing import WidthGroup

COPIES = 6
"""How often new entries exist while a surgery is planned and done: new slices, the copy it is tried on and its
gradients, the model, the vault's buffer. Measured: 4, without an optimizer."""
INDEX_BYTES = 50
"""What a trace and gather maps take for each index of a dimension. Measured: 44."""
SHARE = 0.5
"""Share of the free memory that a surgery may take; training needs some too."""


def available_bytes(devices: Iterable[torch.device] = ()) -> int | None:
    """Return the free bytes on CUDA devices, or in the machine's memory where there are none among ``devices``; None
    where the system does not tell."""
    cuda = [device for device in devices if device.type == "cuda"]
    if cuda:
        return min(torch.cuda.mem_get_info(device)[0] for device in cuda)
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require_room(needed: int, what: str, devices: Iterable[torch.device] = ()) -> None:
    """Check that some bytes can be had.

    Raises:
        Refused: otherwise.
    """
    available = available_bytes(devices)
    if available is not None and needed > SHARE * available:
        raise Refused(
            f"{what} needs {needed / 1e6:,.0f} MB while it is done; {available / 1e6:,.0f} MB are free, of which "
            f"surgery takes no more than {SHARE:.0%}",
            "memory",
        )


def require_room_for_layer(build: Callable[[], nn.Module], what: str) -> None:
    """Check, on the meta device, that a new layer would fit.

    Raises:
        Refused: otherwise, or if its size can't even be counted.
    """
    try:
        with torch.device("meta"):
            layer = build()
    except (RuntimeError, OverflowError) as error:
        raise Refused(f"{what} can't be made: {error}", "memory") from error
    needed = sum(tensor.nbytes for tensor in (*layer.parameters(), *layer.buffers()))
    require_room(COPIES * needed, what)


def require_room_to_grow(state: ModelState, model: nn.Module, group: WidthGroup, units: int) -> None:
    """Check that a group can have ``units`` units: memory, and the limits on parameters.

    Raises:
        Refused: naming the limit, or the bytes.
    """
    after = _shapes_after(state, group, units)
    specs = dict(state.architecture.tensors())
    grown = {name: evolve(specs[name], shape=shape) for name, shape in after.items()}
    added = sum(spec.nbytes - specs[name].nbytes for name, spec in grown.items())
    what = f"width {group.size // group.units * units} of {group.tensor!r}"
    indices = sum(member.covered for member in group.members) // group.units * (units - group.units)
    require_room(COPIES * added + INDEX_BYTES * indices, what, devices_of(model))
    parameters = sum(
        spec.numel - specs[name].numel for name, spec in grown.items() if spec.role == "parameter"
    )
    rules.check_parameters(state, state.architecture.parameter_count + parameters)


def _shapes_after(state: ModelState, group: WidthGroup, units: int) -> Mapping[str, tuple[int, ...]]:
    specs: dict[str, TensorSpec] = dict(state.architecture.tensors())
    shapes: dict[str, tuple[int, ...]] = {}
    for member in group.members:
        shape = list(shapes.get(member.tensor, specs[member.tensor].shape))
        shape[member.dim] += member.covered * (units - group.units) // group.units
        shapes[member.tensor] = tuple(shape)
    return shapes
