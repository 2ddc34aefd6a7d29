"""Parameters that no example reached, next to channels that come or go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
from attrs import define

from esper_es.domain.architecture import relative_path, split_path
from esper_es.domain.errors import Refused
from esper_es.planning.observation import ADD_EXAMPLES
from esper_es.planning.provenance import traced
from esper_es.planning.scene import Scene
from esper_es.tracing import Frame, Frames, Member, Trace, TracedTensor, WidthGroup
from esper_es.tracing.union_find import Ids


@define(eq=False, slots=False)
class Unreached:
    """Judges whether code that did not run could feed channels of a group to a parameter that it alone reads.

    Such code belongs to the module that owns the parameter, or to one around it. What it has at hand is what that
    module is given, computes, and gets back from its parts, all of which the examples show (``tracing/frames.py``).
    So the parameter could be fed by the group

    - where channels of the group are at hand there, in a size that the parameter has too, or, where a flatten
      could lie between, in one of which the parameter has a multiple;
    - where it is handed on as an argument, by the module that owns it to one of its parts: if the group is at hand
      there in a size that the parameter has, or all of it together;
    - where code around that module hands it on: if it has a dimension of the group's size.

    Other channels of that size account for it, at hand where the parameter belongs. Then only what is nearest counts:
    the code of its owner with channels of just that size, and the parts that its owner calls itself. A parameter that
    has the shape of such channels as a whole, as of all heads, is not taken for a flat one.

    What goes on inside an attention or a feed-forward block is thus out of reach of a mask token beside it.
    """

    scene: Scene
    found: Trace

    def require_none(self, groups: Iterable[WidthGroup], layer: str) -> None:
        """Check that no unreached parameter could be fed by channels of groups that change with a layer.

        Raises:
            Refused: naming them, where they could meet the channels, and what to do.
        """
        fed = [told for group in groups for tensor in self._tensors for told in self._fed(tensor, group)]
        if fed:
            place = fed[0][1]
            names = list(dict.fromkeys(name for name, where in fed if where == place))
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise Refused(
                f"the example inputs never reach {', '.join(names[:3])}{more}, which might be fed by {layer!r} "
                f"{place}; {ADD_EXAMPLES}, or take out of the model what nothing uses",
                "not_executed",
            )

    @cached_property
    def _tensors(self) -> tuple[TracedTensor, ...]:
        known = {name for name, _ in self.scene.state.architecture.tensors()}
        named = (self.found.index.named(name) for name in self.found.unexecuted_parameters if name in known)
        return tuple(tensor for tensor in named if tensor is not None)

    @cached_property
    def _frames(self) -> Frames:
        """Traced again, with an eye on the modules around what was not reached."""
        around = {path for tensor in self._tensors for path in (*self._readers(tensor), *self._parts(tensor))}
        frames = Frames(around)
        traced(self.scene.shadow, self.scene.examples, frames)
        return frames

    def _readers(self, tensor: TracedTensor) -> list[str]:
        """Paths of the modules whose code may read a tensor under some name: those that hold it."""
        return list(dict.fromkeys(self._first(path) for name in tensor.names for path in _around(name)))

    def _first(self, path: str) -> str:
        return self.found.first_paths.get(path, path)

    def _parts(self, tensor: TracedTensor) -> dict[str, bool]:
        """Paths of the modules inside those that own a tensor, and whether no other that runs lies between."""
        parts: dict[str, bool] = {}
        for owner in {split_path(name)[0] for name in tensor.names}:
            for path, first in self.found.first_paths.items():
                if relative_path(path, owner):
                    parts[first] = parts.get(first, False) or not any(
                        self.found.call_order.executed(between)
                        for between in _around(path)
                        if relative_path(between, owner)
                    )
        return parts

    def _fed(self, tensor: TracedTensor, group: WidthGroup) -> Iterator[tuple[str, str]]:
        slots = np.concatenate([self._slots(member) for member in group.members])
        found = next((path for name in tensor.names for path in self._read_in(tensor, name, slots)), None)
        if found is not None:
            yield tensor.name, f"in the code of {found!r}" if found else "in the code of the model itself"
            return
        frames = [self._frames[path] for path in self._readers(tensor)]
        beside = {size for frame in frames for size in frame.sizes_beside(slots)}
        flat = () if _has_the_shape_of_others(tensor, frames, slots) else (tensor.size,)
        handed = {*tensor.shape, *flat} & _sizes(group)
        for path, directly in self._parts(tensor).items():
            if (handed if directly else handed - beside) & {
                extent.size for extent in self._frames[path].extents_of(slots)
            }:
                yield tensor.name, f"if the module that owns it hands it on to {path!r}"
                return
        if (set(tensor.shape) & _sizes(group)) - beside:
            yield tensor.name, f"if the code around it hands it on to where {group.tensor!r} is used"

    def _read_in(self, tensor: TracedTensor, name: str, slots: Ids) -> Iterator[str]:
        """Paths of the modules whose code may read a tensor, under one of its names, together with channels."""
        inside: set[int] = set()
        for path in map(self._first, _around(name)):
            frame = self._frames[path]
            beside = frame.sizes_beside(slots) | inside
            if any(
                (size == e.size and size not in inside)
                or (e.stretches and size % e.size == 0 and size not in beside)
                for e in frame.extents_of(slots)
                for size in tensor.shape
            ):
                yield path
            inside = beside

    def _slots(self, member: Member) -> Ids:
        tensor = self.found.index.named(member.tensor)
        assert tensor is not None
        return self.found.index.slots(tensor, member.dim)[member.positions >= 0]


def _around(name: str) -> Iterator[str]:
    """Paths of the modules that hold a tensor or a module, the innermost first."""
    while name:
        name = split_path(name)[0]
        yield name


def _has_the_shape_of_others(tensor: TracedTensor, frames: Iterable[Frame], slots: Ids) -> bool:
    """Whether other channels are at hand that lie along several dimensions as a tensor does."""
    shape = tuple(size for size in tensor.shape if size > 1)
    return len(shape) > 1 and any(
        other[-len(shape) :] == shape for frame in frames for other in frame.shapes_beside(slots)
    )


def _sizes(group: WidthGroup) -> set[int]:
    """Numbers of the units of a group, and of their channels in each place, all together and in one run."""
    sizes = {group.size, group.units}
    for member in group.members:
        inside = member.positions[member.positions >= 0]
        runs = int((np.diff(inside) < 0).sum()) + 1
        sizes |= {len(inside), len(inside) // runs}
    return sizes - {1}
