"""Names of the live module's parts: modules by path, tensors by state-dict name, tied ones once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from esper_es.domain.architecture import TRANSIENT, join_path, split_path

DTYPES: Mapping[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
        torch.float16, torch.bfloat16, torch.float32, torch.float64,
        torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2,
    )
}  # fmt: skip
"""Every dtype that a log may name."""


def module_at(root: nn.Module, path: str) -> nn.Module:
    """Return the module at a dotted path; ``""`` is the root.

    Raises:
        KeyError: if there is none.
    """
    module = root
    for name in path.split(".") if path else ():
        child = module._modules.get(name)
        if child is None:
            raise KeyError(path)
        module = child
    return module


def parent_of(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Return the parent module of ``path`` and the local name of the child."""
    parent, name = split_path(path)
    return module_at(root, parent), name


def tensor_at(root: nn.Module, name: str) -> torch.Tensor:
    """Return the parameter or buffer with this state-dict name.

    Raises:
        KeyError: if there is none.
    """
    module, local = parent_of(root, name)
    tensor: torch.Tensor | None = module._parameters.get(local)
    if tensor is None:
        tensor = module._buffers.get(local)
    if tensor is None:
        raise KeyError(name)
    return tensor


def own_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor, str]]:
    """Yield ``(local name, tensor, role)`` of a module's own parameters and buffers, in order."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield name, parameter, "parameter"
    for name, buffer in module._buffers.items():
        if buffer is not None:
            transient = name in module._non_persistent_buffers_set
            yield name, buffer, TRANSIENT if transient else "buffer"


def named_tensors(root: nn.Module) -> Iterator[tuple[str, torch.Tensor, str]]:
    """Yield ``(state-dict name, tensor, role)`` of every tensor below ``root``, shared ones once."""
    seen: set[int] = set()
    for path, module in root.named_modules():
        for local, tensor, role in own_tensors(module):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield join_path(path, local), tensor, role


def named_parameters_by_id(root: nn.Module) -> dict[int, str]:
    """Return the name of every parameter by the identity of its object."""
    return {id(tensor): name for name, tensor, role in named_tensors(root) if role == "parameter"}


def dtype_name(dtype: torch.dtype) -> str:
    """Return ``"float32"`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")
