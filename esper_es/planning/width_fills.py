"""What new entries of widened tensors hold."""

from __future__ import annotations

from math import prod

from torch import nn

from esper_es.domain.edits import Fill
from esper_es.tracing import Member

INITIALIZATIONS = ("kaiming", "xavier")

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
)


def fill_for(
    module: nn.Module, member: Member, shape: tuple[int, ...], initialization: str, seed: int
) -> Fill:
    """Return the fill of one widened dimension.

    Producers of new channels are drawn by ``initialization``; their biases are zero. Readers of new channels are
    zero, so that nothing changes downstream. Norms and their statistics begin as torch's do.

    Args:
        module: owner of the tensor.
        member: the dimension.
        shape: of the tensor before.
        initialization: one of ``INITIALIZATIONS``.
        seed: for drawn entries.
    """
    name = member.tensor.rpartition(".")[2]
    if member.role == "statistic":
        return Fill("ones" if name == "running_var" else "zeros")
    if member.role == "affine":
        return Fill("ones" if name == "weight" and isinstance(module, _NORMS) else "zeros")
    if member.role != "producer" or len(shape) < 2:
        return Fill("zeros")
    fans = {"fan_in": float(prod(shape[1:])), "fan_out": float(shape[0] * prod(shape[2:]))}
    if initialization == "xavier":
        return Fill("xavier", fans, seed)
    return Fill("kaiming", {"fan_in": fans["fan_in"]}, seed)
