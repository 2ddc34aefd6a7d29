"""The trace of a model: which channel feeds which, proven by execution."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from attrs import evolve, field, frozen

from esper_es.tracing.call_order import CallOrder
from esper_es.tracing.calls import ModuleCall
from esper_es.tracing.explanation import Explanation
from esper_es.tracing.grouping import Grouping
from esper_es.tracing.groups import WidthGroup
from esper_es.tracing.relations import Settled
from esper_es.tracing.slots import SlotIndex, TracedTensor
from esper_es.tracing.targets import target_dim, target_tensor
from esper_es.tracing.union_find import Ids


@frozen(eq=False)
class Trace:
    """What executing a model on examples says about its channels and its modules.

    ``calls`` are all module calls in the order in which they started. ``first_paths`` maps every path of
    every module to the first path of the same object, which is the one that its calls name. No operator
    ever read the ``unexecuted_parameters``: nothing is known of them, and their groups are pinned.
    """

    index: SlotIndex = field(repr=False)
    relations: Settled = field(repr=False)
    calls: tuple[ModuleCall, ...] = field(repr=False)
    first_paths: Mapping[str, str] = field(repr=False)
    unexecuted_parameters: tuple[str, ...]

    @property
    def tensors(self) -> tuple[TracedTensor, ...]:
        """Every parameter and buffer of floating point, tied ones once."""
        return self.index.tensors

    @cached_property
    def call_order(self) -> CallOrder:
        """Questions about which module ran before, after or inside which."""
        return CallOrder(self.calls, self.first_paths)

    @cached_property
    def width_groups(self) -> tuple[WidthGroup, ...]:
        """Every group of like units that some layer produces, pinned ones included."""
        return self._grouping.groups()

    def group_of(self, layer: str, dim: int | None = None) -> WidthGroup:
        """The group of the output channels of a layer, or of any dimension of a tensor.

        Args:
            layer: path of a module (its weight is meant), or name of a tensor.
            dim: dimension of that tensor; by default the one that holds its output channels.

        Raises:
            UsageError: no such layer or dimension, or which one is meant is not clear.
        """
        tensor = target_tensor(self.index, layer)
        return self._grouping.group(tensor, target_dim(self._grouping, layer, tensor, dim))

    def kinds(self, slots: Ids) -> Ids:
        """A number for each slot that only those share whose units touch the same tensors equally often."""
        return self._grouping.kinds(slots)

    def last_kind(self, group: WidthGroup) -> WidthGroup:
        """The group itself if its units are all alike; otherwise those that are like the last one of the dimension.

        A layer whose outputs are cut into parts that go different ways has units of several kinds.
        """
        tensor = self.index.named(group.tensor)
        if group.families == 1 or tensor is None:
            return group
        kind = self._grouping.last_kind(tensor, group.dim)
        return evolve(kind, others=group.units - kind.units)

    def explain(self, layer: str, dim: int | None = None) -> Explanation:
        """An account of a group: its members, its pins and why."""
        return Explanation(self.group_of(layer, dim))

    def as_dict(self) -> dict[str, Any]:
        """The whole trace in JSON's types."""
        unexecuted = set(self.unexecuted_parameters)
        return {
            "tensors": [
                {"names": list(t.names), "shape": list(t.shape), "executed": t.name not in unexecuted}
                for t in self.tensors
            ],
            "groups": [group.as_dict() for group in self.width_groups],
            "calls": [call.as_dict() for call in self.calls],
            "unexecuted_parameters": list(self.unexecuted_parameters),
        }

    @cached_property
    def _grouping(self) -> Grouping:
        return Grouping(self.index, self.relations)
