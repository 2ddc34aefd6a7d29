"""The table of operator rules. A rule is one small function; the decorator puts it in the table::

    @rule(torch.ops.mylib.rotate)
    def rotate(op: Operation) -> None:
        op.move(lambda shadow: shadow)

An operator that is in no table pins every channel it touches, under its own name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from attrs import frozen
from torch._ops import OpOverload, OpOverloadPacket

from esper_es.domain.errors import UsageError
from esper_es.tracing.operation import Operation

Follow = Callable[[Operation], None]


@frozen
class Rule:
    """How channels pass an operator.

    ``preserves``: its result holds elements of its arguments, moved or each computed by itself.
    """

    follow: Follow
    preserves: bool


SUMS = frozenset((torch.ops.aten.add, torch.ops.aten.add_, torch.ops.aten.sub, torch.ops.aten.sub_))
"""What is added to channels makes them."""
OF_THEIR_OWN = frozenset(getattr(torch.ops.aten, name) for name in ("mv", "dot", "vdot", "convolution"))
"""Their rules look at buffers themselves: at vectors that measure a weight, at one filter for all channels."""

_RULES: dict[OpOverloadPacket, Rule] = {}
_ELEMENTWISE: list[Rule] = []


def rule(*operators: OpOverloadPacket, moves: bool = False) -> Callable[[Follow], Follow]:
    """Register a rule for all overloads of some operators; ``moves`` if they only move elements.

    Raises:
        UsageError: an operator has a rule already: two rules for one operator would make results depend on
            the order of imports.
    """

    def register(follow: Follow) -> Follow:
        for operator in operators:
            if operator in _RULES:
                raise UsageError(f"{operator} has a rule already ({_RULES[operator].follow.__name__})")
            _RULES[operator] = Rule(follow, moves)
        known.cache_clear()
        return follow

    return register


def elementwise(follow: Follow) -> Follow:
    """Register the rule of every operator that torch tags as pointwise and that has none of its own."""
    _ELEMENTWISE.append(Rule(follow, preserves=True))
    return follow


@frozen
class Known:
    """What is known of one operator overload; ``rule`` is None when nothing is.

    ``follows_tables``: it moves or adds what a buffer holds, so that more zeros in the buffer would do no harm, or its
    rule knows when they would not.
    """

    rule: Rule | None
    preserves: bool
    follows_tables: bool
    name: str
    mutates: bool


@cache
def known(func: OpOverload) -> Known:
    pointwise = _is_pointwise(func)
    own = _RULES.get(func.overloadpacket)
    found = own or (_ELEMENTWISE[0] if pointwise else None)
    return Known(
        rule=found,
        preserves=pointwise or (found is not None and found.preserves),
        follows_tables=func.overloadpacket in SUMS | OF_THEIR_OWN or (own is not None and own.preserves),
        name=str(func.overloadpacket),
        mutates=bool(func._schema.is_mutable),
    )


def _is_pointwise(func: OpOverload) -> bool:
    """By torch's own tag, which many in-place operators lack where their functional form has it."""
    if torch.Tag.pointwise in func.tags:
        return True
    namespace, _, name = func._schema.name.partition("::")
    functional = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    if not name.endswith("_") or functional is None or func._overloadname not in functional.overloads():
        return False
    return torch.Tag.pointwise in getattr(functional, func._overloadname).tags


def existing(namespace: Any, *names: str) -> tuple[OpOverloadPacket, ...]:
    """Those of the named operators that this torch release has."""
    return tuple(getattr(namespace, name) for name in names if hasattr(namespace, name))
