"""Which tensor and which dimension is meant by the name of a layer."""

from __future__ import annotations

from difflib import get_close_matches

from esper_es.domain.errors import UsageError
from esper_es.tracing.grouping import Grouping
from esper_es.tracing.slots import SlotIndex, TracedTensor

_PARAMETRIZED = "parametrizations.weight.original"


def target_tensor(index: SlotIndex, layer: str) -> TracedTensor:
    """The tensor of that name, or the weight of the layer at that path.

    A parametrized weight is its largest part; a layer without weight has its only tensor of most dimensions.

    Raises:
        UsageError: no such layer, or several tensors could be meant.
    """
    prefix = f"{layer}." if layer else ""
    named = index.named(layer) or index.named(f"{prefix}weight")
    if named is not None:
        return named
    parts = _below(index, f"{prefix}{_PARAMETRIZED}")
    if parts:
        return max(parts, key=lambda tensor: tensor.size)
    own = [
        tensor for tensor in _below(index, prefix) if layer in {n.rpartition(".")[0] for n in tensor.names}
    ]
    own = [tensor for tensor in own if not tensor.statistic] or own
    own = [tensor for tensor in own if tensor.name.endswith("weight")] or own
    most = max((len(tensor.shape) for tensor in own), default=0)
    candidates = [tensor for tensor in own if len(tensor.shape) == most > 0]
    if len(candidates) == 1 or (candidates and all(tensor.statistic for tensor in candidates)):
        return candidates[0]
    if candidates:
        names = ", ".join(tensor.name for tensor in candidates)
        raise UsageError(f"{layer!r} has several tensors: name the one that is meant ({names})")
    layers = sorted({name.rpartition(".")[0] for tensor in index.tensors for name in tensor.names})
    near = get_close_matches(layer, layers) or layers[:8]
    raise UsageError(f"{layer!r} is no layer with parameters; layers are {', '.join(near)}")


def target_dim(grouping: Grouping, layer: str, tensor: TracedTensor, dim: int | None) -> int:
    """The dimension that was asked for, or the one that holds the output channels.

    Of a tied weight, that is the one that produces channels where the layer itself runs.

    Raises:
        UsageError: the tensor has no such dimension, or which one is meant is not clear.
    """
    count = len(tensor.shape)
    if dim is not None:
        if not -count <= dim < count:
            known = f"the dimensions 0 to {count - 1}" if count else "no dimensions"
            raise UsageError(f"{tensor.name} has {known}; {dim} is none of them")
        return dim % count
    if count == 1:
        return 0
    producing = {d: grouping.roles(tensor, d).get("producer", frozenset()) for d in range(count)}
    here = [d for d in range(count) if producing[d] & {layer, layer.rpartition(".")[0]}]
    anywhere = [d for d in range(count) if producing[d]]
    for candidates in (here, anywhere):
        if len(candidates) == 1:
            return candidates[0]
    if count and not any(grouping.roles(tensor, d) for d in range(count)):
        return 0
    raise UsageError(
        f"which dimension of {tensor.name} {list(tensor.shape)} holds the output channels is not clear: give dim"
    )


def _below(index: SlotIndex, prefix: str) -> list[TracedTensor]:
    return [tensor for tensor in index.tensors if any(n.startswith(prefix) for n in tensor.names)]
