"""The raw bytes of a tensor: elements in row-major order, little-endian, without a copy where possible."""

from __future__ import annotations

import sys

import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from esper_es.domain.errors import UsageError
from esper_es.vault.dtypes import DTYPE_NAMES, DTYPES


def dtype_and_shape(tensor: torch.Tensor) -> tuple[str, tuple[int, ...]]:
    """Return the stored name of the dtype, and the shape.

    Raises:
        UsageError: not a tensor, or one without dense bytes (quantized, sparse, nested, meta, lazy).
    """
    if not isinstance(tensor, torch.Tensor):
        raise UsageError(f"expected a torch.Tensor, got {type(tensor).__name__}")
    if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
        raise UsageError("a lazy parameter has no bytes yet; run the model once before storing it")
    if tensor.is_quantized:
        raise UsageError(
            "a quantized tensor cannot be stored: its bytes mean nothing without scale and zero point; "
            "store int_repr(), q_scale() and q_zero_point(), or dequantize() it"
        )
    if tensor.is_nested or tensor.layout is not torch.strided:
        raise UsageError(
            f"a {_layout(tensor)} tensor cannot be stored; make it dense or store its components"
        )
    if tensor.device.type == "meta":
        raise UsageError("a meta tensor has no bytes to store; materialise it first")
    name = DTYPE_NAMES.get(tensor.dtype)
    if name is None:
        raise UsageError(f"tensors of {tensor.dtype} cannot be stored; those of {', '.join(DTYPES)} can")
    return name, tuple(tensor.shape)


def host_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the tensor's bytes, flat. Contiguous CPU tensors are viewed, every other tensor is copied once.

    The view keeps the storage alive and follows its changes: leave the tensor alone while the view is in use.

    Raises:
        UsageError: a tensor subclass that hides its bytes, or a big-endian machine.
    """
    if sys.byteorder != "little":
        raise UsageError(
            "stored tensors are little-endian and this machine is big-endian; use a little-endian one"
        )
    return _flat(tensor.detach().resolve_conj().resolve_neg().cpu().contiguous())


def empty_tensor(dtype: str, shape: tuple[int, ...]) -> tuple[torch.Tensor, memoryview]:
    """Return a new CPU tensor of undefined content, and a writable view of its bytes to fill."""
    with torch.inference_mode(False):
        tensor = torch.empty(shape, dtype=DTYPES[dtype], device="cpu")
        return tensor, _flat(tensor)


def _flat(dense: torch.Tensor) -> memoryview:
    try:
        return dense.reshape(-1).view(torch.uint8).numpy().data
    except (RuntimeError, TypeError) as error:
        raise UsageError(
            f"a {type(dense).__name__} does not expose its bytes; pass the plain torch.Tensor that it wraps"
        ) from error


def _layout(tensor: torch.Tensor) -> str:
    return "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
