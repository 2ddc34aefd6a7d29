"""The two modes under which a model is traced: one sees operators, the other calls before they become ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, MutableMapping
from typing import Any

import torch
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import multi_head_attention_forward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from esper_es.domain.errors import EsperError
from esper_es.tracing.calls import CallRecorder
from esper_es.tracing.carry import UNKNOWN, Carry, Origin, result_origin
from esper_es.tracing.isolation import without_onednn
from esper_es.tracing.operation import Execution, Operation, layout_of, tensors_among
from esper_es.tracing.relations import Relations, Site
from esper_es.tracing.rule_table import Known, known
from esper_es.tracing.slots import SeededTensors, seed_shadows

aten = torch.ops.aten

UNIFORM_FACTORIES = frozenset(
    getattr(aten, name)
    for name in (
        "zeros",
        "ones",
        "full",
        "new_zeros",
        "new_ones",
        "new_full",
        "zeros_like",
        "ones_like",
        "full_like",
    )
)
MADE_ANEW = frozenset(
    getattr(aten, name) for name in ("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided")
)
"""They take no more than a dtype and a device from their argument; its channels are not looked at."""


class CarryMemory:
    """What each live tensor carries. Tensors are held weakly: tracing keeps no activation alive."""

    def __init__(self, seeds: SeededTensors) -> None:
        self._carried: MutableMapping[torch.Tensor, Carry] = WeakTensorKeyDictionary()
        self._seeded = {
            id(live): (
                number,
                Carry(seed_shadows(tensor), Origin.TABLE if tensor.table else Origin.WEIGHT),
            )
            for number, (live, tensor) in enumerate(zip(seeds.live, seeds.index.tensors, strict=True))
        }
        self._slots = seeds.index.size
        self._written: dict[int, StorageWeakRef] = {}
        self._touched_up: dict[int, StorageWeakRef] = {}
        self.touched: set[int] = set()

    def recall(self, tensor: torch.Tensor) -> Carry:
        seeded = self._seeded.get(id(tensor))
        if seeded is not None:
            self.touched.add(seeded[0])
            carry = seeded[1]
            return carry if self._still(tensor, carry) else self._carried.get(tensor, UNKNOWN)
        carry = self._carried.get(tensor, UNKNOWN)
        return self._unrepeated(tensor, carry) if self._still(tensor, carry) else UNKNOWN

    def remember(self, tensor: torch.Tensor, carry: Carry) -> None:
        seeded = self._seeded.get(id(tensor))
        if seeded is None or not self._still(tensor, seeded[1]):
            self._carried[tensor] = carry

    def _still(self, tensor: torch.Tensor, carry: Carry) -> bool:
        """Whether nothing wrote over what a tensor held without channels that somebody knows."""
        if carry.origin not in (Origin.UNIFORM, Origin.TABLE) or tensor.layout is not torch.strided:
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
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            self._touched_up[storage._cdata] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        carry = self.recall(tensor)
        if (carry.origin is Origin.TABLE or not carry.shadows) and tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            self._written[storage._cdata] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]


def settle(carry: Carry, relations: Relations) -> None:
    """Somebody looks at the values of a tensor."""
    for debt in carry.debts:
        relations.pin(debt.ids, debt.reason, debt.module)


class OperatorWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs every operator as it is, then lets its rule follow the channels through it."""

    def __init__(self, memory: CarryMemory, relations: Relations, calls: CallRecorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._memory = memory
        self._relations = relations
        self._calls = calls

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Do not wrap the mode for torch.compile: that would import the compiler, a second of start-up."""
        return False

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operator = known(func)
        if operator.rule is None:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        recall = self._memory.recall
        carried = {}
        for tensor in tensors_among((*args, *kwargs.values())):
            carry = recall(tensor)
            hidden = carry.origin is Origin.TABLE and not operator.follows_tables
            carried[id(tensor)] = UNKNOWN if hidden else carry
        carries = () if func.overloadpacket in MADE_ANEW else carried.values()
        for carry in carries:
            if carry.debts:
                settle(carry, self._relations)
        layout = layout_of(args) if operator.mutates else None
        result = func(*args, **kwargs)
        if operator.mutates:
            self._note_writes(func, args, kwargs)
        if not any(carry.shadows for carry in carries):
            self._pass_origin(func, operator, carries, result)
        elif operator.rule is None:
            self._stop(func, carries, result)
        else:
            execution = Execution(func, args, kwargs, result, layout)
            site = Site(operator.name, self._calls.current)
            operation = Operation(execution, site, operator.preserves, carried, self._memory, self._relations)
            try:
                operator.rule.follow(operation)
            except Exception as error:
                raise EsperError(f"the rule of {func} does not fit its arguments: {error!r}") from error
        return result

    def _stop(self, func: OpOverload, carries: Collection[Carry], result: Any) -> None:
        for carry in carries:
            for shadow in carry.shadows:
                self._relations.pin(shadow.ids, f"{func} has no rule", self._calls.current)
        for tensor in tensors_among((result,)):
            self._memory.remember(tensor, Carry((), Origin.ACTIVATION))

    def _pass_origin(
        self, func: OpOverload, operator: Known, carries: Collection[Carry], result: Any
    ) -> None:
        """Nothing is tracked among the arguments: only remember what the values come from."""
        if func.overloadpacket in UNIFORM_FACTORIES:
            origin = Origin.UNIFORM
        else:
            origin = result_origin([carry.origin for carry in carries], operator.preserves)
        if origin is not Origin.CONSTANT:
            for tensor in tensors_among((result,)):
                self._memory.remember(tensor, Carry((), origin))

    def _note_writes(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for position, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                target = args[position] if position < len(args) else kwargs.get(argument.name)
                for tensor in tensors_among((target,)):
                    self._pin_table(tensor, func)
                    self._memory.written(tensor)

    def _pin_table(self, tensor: torch.Tensor, func: OpOverload) -> None:
        carry = self._memory.recall(tensor)
        if carry.origin is Origin.TABLE:
            for shadow in carry.shadows:
                self._relations.pin(shadow.ids, f"is written by {func.overloadpacket}", self._calls.current)


class FunctionWatch(TorchFunctionMode):
    """Sees calls before they become operators: values that leave torch, where nothing can be followed, are
    pinned; recurrent layers are kept from running as one fused operator."""

    def __init__(self, memory: CarryMemory, relations: Relations, calls: CallRecorder) -> None:
        super().__init__()
        self._memory = memory
        self._relations = relations
        self._calls = calls

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _EXITS:
            name = f"Tensor.{func.__name__}"
            carry = self._memory.recall(args[0])
            settle(carry, self._relations)
            for shadow in carry.shadows:
                self._relations.pin(shadow.ids, f"leaves torch through {name}", self._calls.current)
            self._memory.written(args[0])
        if func is multi_head_attention_forward:
            kwargs = self._unpadded(kwargs or {})
        if func in _RECURRENT:
            with without_onednn():
                return func(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        if func == _DATA:
            self._memory.remember(result, self._memory.recall(args[0]))
        return result

    def _unpadded(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of torch's attention without the mask of padded positions, if that carries no channels.

        The mask is the same for all heads, and copied out for each of them, where a trace would not know it again.
        """
        mask = kwargs.get("key_padding_mask")
        if mask is None or self._memory.recall(mask).shadows:
            return kwargs
        return {**kwargs, "key_padding_mask": None}


_EXITS = frozenset(
    getattr(torch.Tensor, name)
    for name in ("numpy", "tolist", "data_ptr", "storage", "untyped_storage", "__array__", "__dlpack__")
)
_RECURRENT = frozenset((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu))
_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]
