"""Tensors lent to a copy of a model: both read the same memory until one of them is written to.

Trying a change needs a copy that may do what it likes, and most of it is never written to. PyTorch can share memory
until the first write (``Tensor._lazy_clone``; all its kernels for CPU and CUDA are tested to ask before they write, and
``data_ptr``, ``numpy`` and DLPack count as writes), so a copy costs no time and no memory for its parameters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from attrs import frozen
from torch import nn

_LENT_ON = ("cpu", "cuda")
"""Elsewhere not all kernels ask before they write."""


@frozen(eq=False)
class Loan:
    """What was lent.

    Attributes:
        owners: tensors of the live model.
        borrowed: those of a copy, by the identity of their owners, as ``copy.deepcopy`` takes what is copied already.
    """

    owners: tuple[torch.Tensor, ...]
    borrowed: Mapping[int, torch.Tensor]

    def end(self) -> None:
        """Empty the borrowed tensors, so that the owners have their memory for themselves again, where it was.

        A view of a borrowed tensor that is still alive would keep its memory shared, and the owner would be moved.
        """
        for tensor in self.borrowed.values():
            tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        for owner in self.owners:
            owner.data_ptr()


def lent(module: nn.Module) -> Loan:
    """Lend a copy all parameters and buffers that can be shared until they are written to."""
    tensors = {
        id(tensor): tensor
        for part in module.modules()
        for tensor in (*part._parameters.values(), *part._buffers.values())
        if tensor is not None and _is_plain(tensor)
    }
    users = Counter(tensor.untyped_storage()._cdata for tensor in tensors.values())
    owners, borrowed = [], {}
    for key, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if users[storage._cdata] == 1 and 0 < storage.nbytes() == tensor.nbytes:
            shared = _shared(tensor)
            if shared is not None:
                owners.append(tensor)
                borrowed[key] = shared
    return Loan(tuple(owners), borrowed)


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) in (torch.Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and tensor.device.type in _LENT_ON
        and tensor.is_leaf
        and not (tensor.is_quantized or tensor.is_inference() or tensor.is_conj() or tensor.is_neg())
        and (isinstance(tensor, nn.Parameter) or not (vars(tensor) or tensor.requires_grad))
    )


def _shared(tensor: torch.Tensor) -> torch.Tensor | None:
    """A tensor that shares memory until one is written to; None where PyTorch does not own that memory alone: pinned,
    NumPy's, or of several processes. It says so only by raising."""
    try:
        lazy: torch.Tensor = tensor.detach()._lazy_clone()
    except RuntimeError:
        return None
    return nn.Parameter(lazy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else lazy
