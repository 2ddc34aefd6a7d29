"""The two modes under which a model is traced: one sees operators, the other calls before they become ones."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.nn.functional import linear, multi_head_attention_forward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _get_current_dispatch_mode

from esper_es.domain.errors import EsperError
from esper_es.tracing.calls import CallRecorder
from esper_es.tracing.carry import UNKNOWN, Carry, Origin, result_origin
from esper_es.tracing.carry_memory import CarryMemory
from esper_es.tracing.fused_cells import taken_apart
from esper_es.tracing.isolation import without_onednn
from esper_es.tracing.operation import Execution, Operation, layout_of, tensors_among
from esper_es.tracing.operator_mode import OperatorMode
from esper_es.tracing.relations import Relations, Site
from esper_es.tracing.rule_table import Known, known

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


def settle(carry: Carry, relations: Relations) -> None:
    """Somebody looks at the values of a tensor."""
    for debt in carry.debts:
        relations.pin(debt.ids, debt.reason, debt.module)


class OperatorWatch(OperatorMode):
    """Runs every operator as it is, then lets its rule follow the channels through it."""

    def __init__(self, memory: CarryMemory, relations: Relations, calls: CallRecorder) -> None:
        super().__init__()
        self._memory = memory
        self._relations = relations
        self._calls = calls

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operator = known(func)
        if operator.rule is None:
            with self:
                result = taken_apart(func, args, kwargs)
            if result is not NotImplemented:
                return result
        return self._followed(func, operator, args, kwargs)

    def whole(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run and follow an operator that torch would take apart before this mode sees it, and no other mode would."""
        with torch._C._DisableTorchDispatch():
            return self._followed(func, known(func), args, kwargs)

    def _followed(
        self, func: OpOverload, operator: Known, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        carried, tracked = self._carried(func, operator, args, kwargs)
        layout = layout_of(args) if operator.mutates else None
        result = func(*args, **kwargs)
        if operator.mutates:
            self._note_writes(func, args, kwargs)
        if not tracked:
            self._pass_origin(func, operator, carried.values(), result)
        elif operator.rule is None:
            self._stop(func, carried.values(), result)
        else:
            execution = Execution(func, args, kwargs, result, layout)
            site = Site(operator.name, self._calls.current)
            operation = Operation(execution, site, operator.preserves, carried, self._memory, self._relations)
            try:
                operator.rule.follow(operation)
            except Exception as error:
                raise EsperError(f"the rule of {func} does not fit its arguments: {error!r}") from error
        return result

    def _carried(
        self, func: OpOverload, operator: Known, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[dict[int, Carry], bool]:
        """What the arguments carry, by identity, and whether there are channels among it."""
        if func.overloadpacket in MADE_ANEW:
            return {}, False
        carried: dict[int, Carry] = {}
        tracked = False
        for tensor in tensors_among((*args, *kwargs.values()) if kwargs else args):
            carry = self._memory.recall(tensor)
            if carry.origin is Origin.TABLE and not operator.follows_tables:
                carry = UNKNOWN
            if carry.debts:
                settle(carry, self._relations)
            if carry.shadows:
                tracked = True
            carried[id(tensor)] = carry
        return carried, tracked

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
        for position, name in _written_arguments(func):
            target = args[position] if position < len(args) else kwargs.get(name)
            for tensor in tensors_among((target,)):
                self._pin_table(tensor, func)
                self._memory.written(tensor)

    def _pin_table(self, tensor: torch.Tensor, func: OpOverload) -> None:
        carry = self._memory.recall(tensor)
        if carry.origin is Origin.TABLE:
            for shadow in carry.shadows:
                self._relations.pin(shadow.ids, f"is written by {func.overloadpacket}", self._calls.current)


@cache
def _written_arguments(func: OpOverload) -> tuple[tuple[int, str], ...]:
    """Position and name of each argument that an operator writes into."""
    return tuple(
        (position, argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


class FunctionWatch(TorchFunctionMode):
    """Sees calls before they become operators: values that leave torch, where nothing can be followed, are
    pinned; recurrent layers are kept from running as one fused operator, linear ones from being taken apart."""

    def __init__(
        self, operators: OperatorWatch, memory: CarryMemory, relations: Relations, calls: CallRecorder
    ) -> None:
        super().__init__()
        self._operators = operators
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
        if func is linear and self._sees_all(args, kwargs or {}):
            return self._operators.whole(aten.linear.default, args, kwargs or {})
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

    def _sees_all(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether nobody else would see what a call consists of: no mode of the model's own, nor its tensors."""
        return _get_current_dispatch_mode() is self._operators and _are_plain((*args, *kwargs.values()))

    def _unpadded(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of torch's attention without the mask of padded positions, if that carries no channels.

        The mask is the same for all heads, and copied out for each of them, where a trace would not know it again.
        """
        mask = kwargs.get("key_padding_mask")
        if mask is None or self._memory.recall(mask).shadows:
            return kwargs
        return {**kwargs, "key_padding_mask": None}


def _are_plain(args: tuple[Any, ...]) -> bool:
    """Whether all arguments are tensors of torch's own kinds, dense ones, or none."""
    return all(arg is None or (type(arg) in _PLAIN and arg.layout is torch.strided) for arg in args)


_PLAIN = frozenset((torch.Tensor, nn.Parameter))
_EXITS = frozenset(
    getattr(torch.Tensor, name)
    for name in ("numpy", "tolist", "data_ptr", "storage", "untyped_storage", "__array__", "__dlpack__")
)
_RECURRENT = frozenset((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu))
_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]
