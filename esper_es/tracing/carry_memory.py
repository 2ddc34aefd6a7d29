"""What every tensor carries while a model is traced."""

from __future__ import annotations

from weakref import ref

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from esper_es.tracing.carry import UNKNOWN, Carry, Origin
from esper_es.tracing.slots import SeededTensors, seed_shadows


class CarryMemory:
    """What each live tensor carries. Tensors are held weakly: tracing keeps no activation alive.

    Entries of tensors that are gone stay until their identity is given to another one.
    """

    def __init__(self, seeds: SeededTensors) -> None:
        self._carried: dict[int, tuple[ref[torch.Tensor], Carry]] = {}
        self._seeds = seeds
        self._seeded = {id(live): number for number, live in enumerate(seeds.live)}
        self._seed_carries: dict[int, Carry] = {}
        self._slots = seeds.index.size
        self._written: dict[int, StorageWeakRef] = {}
        self._touched_up: dict[int, StorageWeakRef] = {}
        self.touched: set[int] = set()

    def recall(self, tensor: torch.Tensor) -> Carry:
        number = self._seeded.get(id(tensor))
        if number is not None:
            self.touched.add(number)
            carry = self._seed_carry(number)
            return carry if self._still(tensor, carry) else self._computed(tensor)
        carry = self._computed(tensor)
        return self._unrepeated(tensor, carry) if self._still(tensor, carry) else UNKNOWN

    def remember(self, tensor: torch.Tensor, carry: Carry) -> None:
        number = self._seeded.get(id(tensor))
        if number is None or not self._still(tensor, self._seed_carry(number)):
            self._carried[id(tensor)] = (ref(tensor), carry)

    def _seed_carry(self, number: int) -> Carry:
        carry = self._seed_carries.get(number)
        if carry is None:
            tensor = self._seeds.index.tensors[number]
            carry = Carry(seed_shadows(tensor), Origin.TABLE if tensor.table else Origin.WEIGHT)
            self._seed_carries[number] = carry
        return carry

    def _computed(self, tensor: torch.Tensor) -> Carry:
        entry = self._carried.get(id(tensor))
        return UNKNOWN if entry is None or entry[0]() is not tensor else entry[1]

    def _still(self, tensor: torch.Tensor, carry: Carry) -> bool:
        """Whether nothing wrote over what a tensor held without channels that somebody knows."""
        if not self._written or carry.origin not in _WRITTEN_OVER or tensor.layout is not torch.strided:
            return True
        return tensor.untyped_storage()._cdata not in self._written

    def _unrepeated(self, tensor: torch.Tensor, carry: Carry) -> Carry:
        """What was repeated along a dimension may not be after something wrote into it."""
        if not self._touched_up or not carry.shadows or tensor.layout is not torch.strided:
            return carry
        if tensor.untyped_storage()._cdata not in self._touched_up:
            return carry
        return carry._replace(shadows=tuple(s for s in carry.shadows if s.ids.flat[0] < self._slots))

    def written(self, tensor: torch.Tensor) -> None:
        """Something wrote into a tensor: no view of its memory is uniform, or a table, any more.

        Channels that were tracked in it stay tracked, as writing into them only adds relations. A weak reference
        keeps the storage's name from being given to another one, and none of its memory alive.
        """
        if tensor.layout is not torch.strided:
            return
        storage = tensor.untyped_storage()
        name, reference = storage._cdata, StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        self._touched_up[name] = reference
        carry = self.recall(tensor)
        if carry.origin is Origin.TABLE or not carry.shadows:
            self._written[name] = reference


_WRITTEN_OVER = frozenset((Origin.UNIFORM, Origin.TABLE))
