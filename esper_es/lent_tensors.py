"""Parameters lent to a copy of a model: both read the same memory until one of them is written to.

Trying a change needs a copy that may do what it likes, and most of it is never written to. PyTorch can share memory
until the first write (``Tensor._lazy_clone``; its kernels for the CPU are tested to ask before they write, and
``data_ptr``, ``numpy`` and DLPack count as writes), so a copy costs no time and no memory for its parameters. Buffers
are small, and a forward may resize them, which shared memory does not allow: the copy is given clones.
"""

from __future__ import annotations

from collections import Counter

import torch
from attrs import define
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

_LENT_ON = "cpu"
"""Elsewhere not all kernels ask before they write: ``torch._foreach_mul_`` on CUDA does not (torch 2.11)."""


@define(eq=False)
class Loan:
    """What was lent.

    Attributes:
        owners: parameters of the live model.
        borrowed: those of a copy, by the identity of their owners, as ``copy.deepcopy`` takes what is copied already.
        storages: the memory of these as they were lent.
    """

    owners: tuple[nn.Parameter, ...]
    borrowed: dict[int, object]
    storages: tuple[StorageWeakRef, ...]

    def end(self) -> None:
        """Give the owners their memory for themselves again, where it was, once nobody needs the copy.

        Whatever still refers to what was borrowed (a view in somebody's cache, the locals of a failed call) gets bytes
        of its own.
        """
        self.borrowed.clear()
        for reference in self.storages:
            kept = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)
            if kept is not None:
                kept.data_ptr()
        for owner in self.owners:
            owner.data_ptr()


def lent(module: nn.Module) -> Loan:
    """Lend a copy all parameters that can be shared until they are written to, with clones of the buffers."""
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers()) if t.layout is torch.strided}
    users = Counter(tensor.untyped_storage()._cdata for tensor in tensors.values())
    owners: list[nn.Parameter] = []
    borrowed: dict[int, object] = {}
    storages: list[StorageWeakRef] = []
    for key, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if not _is_plain(tensor) or users[storage._cdata] > 1 or not 0 < storage.nbytes() == tensor.nbytes:
            continue
        if not isinstance(tensor, nn.Parameter):
            if not (tensor.requires_grad or vars(tensor)):
                borrowed[key] = tensor.clone()
        elif (shared := _shared(tensor)) is not None:
            owners.append(tensor)
            borrowed[key] = shared
            storages.append(StorageWeakRef(shared.untyped_storage()))  # type: ignore[no-untyped-call]
    return Loan(tuple(owners), borrowed, tuple(storages))


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) in (nn.Parameter, torch.Tensor)
        and tensor.device.type == _LENT_ON
        and tensor.is_leaf
        and not (tensor.is_quantized or tensor.is_inference() or tensor.is_conj() or tensor.is_neg())
    )


def _shared(parameter: nn.Parameter) -> nn.Parameter | None:
    """A parameter that shares memory until one is written to; None where PyTorch does not own that memory alone:
    pinned, NumPy's, or of several processes. It says so only by raising."""
    try:
        return nn.Parameter(parameter.detach()._lazy_clone(), parameter.requires_grad)
    except RuntimeError:
        return None
