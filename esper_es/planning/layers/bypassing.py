"""What stands in for a removed layer: which argument it lets through, what it returns, which attributes it keeps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from attrs import frozen
from torch import nn

from esper_es.domain.canonical import Json
from esper_es.domain.errors import Refused
from esper_es.planning.observation import Observation
from esper_es.planning.taken import Taken, Where
from esper_es.projections.live.modules import Bypass
from esper_es.projections.live.results import STREAM

_MAY_BE_NONE = {nn.MultiheadAttention: ("in_proj_bias", "bias_k", "bias_v")}
"""Tensors that a class documents as optional: who reads them is prepared for None."""


@frozen(eq=False)
class Stream:
    """An argument of a removed layer that could take the place of its result.

    Attributes:
        where: the argument.
        fits: whether it has the shape and dtype of the result in every call.
        returns: template of the layer's result.
        alone: whether the layer takes nothing else and returns the tensor itself.
    """

    where: Where
    fits: bool
    returns: Json
    alone: bool


def streams_through(observation: Observation, path: str) -> tuple[Stream, ...]:
    """Return the arguments of a layer that could take the place of its result, in the order of its signature.

    An argument that does not fit must be of floating point numbers, to be bridged.

    Raises:
        Refused: if there is none, or calls differ in structure.
    """
    observation.require_executed(path)
    calls = observation.taken[path]
    if any(not call.inputs or call.output is None for call in calls):
        raise Refused(f"layer {path!r} takes or returns no tensor; nothing can be let through", "no_tensor")
    if any(call.returns != calls[0].returns for call in calls):
        raise Refused(f"layer {path!r} returns different structures from call to call", "structure")
    alone = calls[0].returns == STREAM and all(call.alone for call in calls)
    streams = tuple(
        Stream(where, fits, calls[0].returns, alone)
        for where in calls[0].where
        if (fits := all(_fits(call, where) for call in calls))
        or all(_is_floating(call, where) for call in calls)
    )
    if not streams:
        raise Refused(
            f"layer {path!r} takes no tensor of floating point numbers and none like its result; nothing can be "
            "let through or bridged",
            "no_tensor",
        )
    return streams


def input_of(call: Taken, where: Where) -> torch.Tensor | None:
    """Return an argument of a call, or None if it was not given."""
    return dict(zip(call.where, call.inputs, strict=True)).get(where)


def _fits(call: Taken, where: Where) -> bool:
    given = input_of(call, where)
    if given is None or call.output is None:
        return False
    return given.shape == call.output.shape and given.dtype == call.output.dtype


def _is_floating(call: Taken, where: Where) -> bool:
    given = input_of(call, where)
    return given is not None and given.is_floating_point()


def stand_in(
    layer: nn.Module, path: str, reads: Iterable[str], stream: Stream, bridge: nn.Module | None
) -> nn.Module:
    """Return the module that takes the place of a layer.

    A bridge stands for itself where it is called, and looked at, like a plain layer.

    Args:
        layer: that goes.
        path: its path.
        reads: what the code around it reads from it.
        stream: what is let through.
        bridge: what that passes, if anything.

    Raises:
        Refused: if the code around the layer reads something of it that nothing else could stand for.
    """
    read = sorted(reads)
    if bridge is not None and stream.alone and all(hasattr(bridge, name.split(".")[0]) for name in read):
        return bridge
    kept = _kept(layer, path, [name for name in read if not hasattr(Bypass, name)])
    bypass = Bypass(stream.where, stream.returns, kept)
    if bridge is not None:
        bypass.add_module("bridge", bridge)
    return bypass


def _kept(layer: nn.Module, path: str, names: Iterable[str]) -> dict[str, Json]:
    """Return templates of the attributes with dotted ``names``."""
    kept: dict[str, Json] = {}
    for name in names:
        owner, _, rest = name.partition(".")
        inner = getattr(layer, owner, None)
        if not rest and not (isinstance(inner, nn.Module) and any(n.startswith(f"{owner}.") for n in names)):
            kept[owner] = {"value": _plain(layer, path, owner)}
        elif isinstance(inner, nn.Module) and owner not in kept:
            deeper = [n[len(owner) + 1 :] for n in names if n.startswith(f"{owner}.")]
            kept[owner] = {"module": _kept(inner, f"{path}.{owner}", deeper)}
    return kept


def _plain(layer: nn.Module, path: str, name: str) -> Json:
    if any(isinstance(layer, cls) and name in names for cls, names in _MAY_BE_NONE.items()):
        return None
    value = getattr(layer, name)
    if _is_plain(value):
        return list(value) if isinstance(value, tuple) else value
    raise Refused(
        f"the code around uses {name!r} of {path!r}, a {type(value).__name__}, for which nothing could stand in",
        "attribute_read",
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (bool, int, str))
