"""One executed operator as its rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
from torch._ops import OpOverload

from esper_es.tracing.carry import Carry, Debt, Origin, result_origin
from esper_es.tracing.relations import Relations, Site
from esper_es.tracing.roles import Role
from esper_es.tracing.shadow import Shadow, collapsed, spread
from esper_es.tracing.union_find import Ids


class Memory(Protocol):
    """Remembers what each live tensor carries."""

    def remember(self, tensor: torch.Tensor, carry: Carry) -> None: ...


class Layout(NamedTuple):
    """Shape and strides of a tensor at one moment."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Execution(NamedTuple):
    """An operator, what it was called with and what it returned.

    ``layout`` is that of the first argument before the operator ran, noted if it writes in place.
    """

    func: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    layout: Layout | None


class Operation:
    """Arguments by their schema names, the result, and the verbs a rule speaks in.

    A rule states relations (``same``, ``bundle``, ``pin``, ``reduce``) between the ids it finds in the
    shadows of the arguments, and then says with ``carry`` which shadows the results have. A result that is
    not mentioned carries nothing, and whatever meets it later is pinned.
    """

    def __init__(
        self,
        execution: Execution,
        site: Site,
        preserves: bool,
        carried: Mapping[int, Carry],
        memory: Memory,
        relations: Relations,
    ) -> None:
        self.func = execution.func
        self.args = execution.args
        self.kwargs = execution.kwargs
        self.result = execution.result
        self._layout = execution.layout
        self.site = site
        self._carried = carried
        self._origin = result_origin([carry.origin for carry in carried.values()], preserves)
        self._memory = memory
        self._relations = relations

    # ---- arguments ----------------------------------------------------------------------------------------

    def arg(self, name: str) -> Any:
        """The argument of that schema name, given or default."""
        position, default = _signature(self.func)[name]
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def has_arg(self, name: str) -> bool:
        """Whether this overload has an argument of that name at all."""
        return name in _signature(self.func)

    @property
    def input(self) -> torch.Tensor:
        """The first argument, for operators whose first argument is the tensor they work on."""
        tensor: torch.Tensor = self.args[0]
        return tensor

    @property
    def layout(self) -> Layout:
        """Shape and strides of the first argument before the operator ran."""
        return self._layout or layout_of(self.args)

    @property
    def ndim(self) -> int:
        """How many dimensions the first argument had before the operator ran."""
        return len(self.layout.shape)

    def dim(self, name: str = "dim") -> int:
        """A dimension argument of the first argument, counted from the front."""
        value: int = self.arg(name)
        return value % max(1, self.ndim)

    def dims(self, name: str = "dim") -> tuple[int, ...]:
        """A dimension-list argument counted from the front; all dimensions when it is None or empty."""
        value = self.arg(name)
        listed = [value] if isinstance(value, int) else list(value or range(self.ndim))
        return tuple(dim % max(1, self.ndim) for dim in listed)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All tensors among the arguments, lists included."""
        return tuple(tensors_among((*self.args, *self.kwargs.values()) if self.kwargs else self.args))

    @property
    def results(self) -> tuple[torch.Tensor, ...]:
        return tuple(tensors_among((self.result,)))

    def shadows(self, tensor: torch.Tensor) -> tuple[Shadow, ...]:
        return self._carried[id(tensor)].shadows

    def origin(self, tensor: torch.Tensor) -> Origin:
        return self._carried[id(tensor)].origin

    # ---- what follows -------------------------------------------------------------------------------------

    def same(self, left: Ids, right: Ids) -> None:
        self._relations.same(left, right, self.site)

    def bundle(self, left: Ids, right: Ids) -> None:
        self._relations.bundle(left, right, self.site)

    def share(self, few: Shadow, many: Shadow, onto: Sequence[int]) -> None:
        """The channels of a weight meet those of several units, or of one, along the dimensions ``onto`` of these."""
        axes = [many.axis(dim) for dim in onto]
        rest = [axis for axis in range(len(many.dims)) if axis not in axes]
        apart = many.ids.transpose([*axes, *rest]).reshape(few.ids.size, -1)
        self._relations.share(few.ids.ravel(), apart, self.site)

    def follow(self, ids: Ids, among: Sequence[Ids]) -> None:
        """The entries of a buffer come and go with whichever of these channels, all along one dimension, may."""
        self._relations.follow(ids, among, self.site)

    def abreast(self, parts: Sequence[Ids]) -> None:
        """Slices of several tensors, ``part[:, i]`` is one of them, stand side by side: all are of one size."""
        self._relations.abreast(parts, self.site)

    def pin(self, ids: Ids, reason: str) -> None:
        """Pin channels; a reason that ends in "in" or "by" is completed with the operator's name."""
        self._relations.pin(ids, f"{reason} {self.site.op}", self.site.module)

    def debt(self, ids: Ids, reason: str) -> Debt:
        """A pin that holds once the result is used for more than its shape."""
        return Debt(ids, f"{reason} {self.site.op}", self.site.module)

    def pin_all(self, tensor: torch.Tensor, reason: str) -> None:
        for shadow in self.shadows(tensor):
            self.pin(shadow.ids, reason)

    def read(self, ids: Ids, paired: bool = False) -> None:
        """The channels are summed over, each with its own weight, or ``paired`` with others: here they arrive."""
        self._relations.read(ids, paired)

    def meet(self, ids: Ids, size: int) -> None:
        """The channels are summed over with others, none of them held by a weight, so many at a time."""
        self._relations.meet(ids, size)

    def reduce(self, ids: Ids) -> None:
        self._relations.reduce(ids, self.site)

    def play(self, ids: Ids, role: Role) -> None:
        self._relations.play(ids, role, self.site.module)

    def collapse(self, shadow: Shadow, onto: Sequence[int]) -> Ids:
        """Bundle the ids that differ only outside ``onto``; one representative for each index of ``onto``.

        ``onto`` names dimensions of the shadow; the representatives have one axis for each, in that order.
        """
        heads = collapsed(shadow, onto)
        if len(onto) < len(shadow.dims):
            self.bundle(spread(heads, shadow, onto), shadow.ids)
        return heads

    def repeated(self, dim: int, size: int) -> Shadow:
        """A shadow along a dimension over which a tensor is repeated: whatever comes and goes there, it does not."""
        return Shadow((dim,), self._relations.nameless(size))

    def is_nameless(self, shadow: Shadow) -> bool:
        """Whether a shadow says no more than that its tensor is repeated along its dimension."""
        return self._relations.are_nameless(shadow.ids)

    def carry(
        self, tensor: torch.Tensor, shadows: Iterable[Shadow | None], debts: Iterable[Debt] = ()
    ) -> None:
        """The shadows of a result. ``None`` among them stands for one that the operator made untraceable."""
        kept = [shadow for shadow in shadows if shadow is not None and shadow.ids.size]
        if len(kept) > 1:
            kept = [shadow for shadow in kept if not self._yields(shadow, kept)] or kept[:1]
        self._memory.remember(tensor, Carry(tuple(kept), self._origin, tuple(debts)))

    def move(self, transform: Callable[[Shadow], Shadow | None]) -> None:
        """The result is the first argument moved: each of its shadows is transformed.

        A shadow for which the transformation is None is pinned: its only channel vanished with its dimension.
        """
        moved = []
        for shadow in self.shadows(self.input):
            target = transform(shadow)
            if target is None:
                self.pin(shadow.ids, "its only channel loses its dimension in")
            moved.append(target)
        self.carry(self.result, moved)

    def _yields(self, shadow: Shadow, others: Sequence[Shadow]) -> bool:
        """A pinned or nameless shadow adds nothing where another one covers the same dimensions; of several that all
        are, the first stays."""
        rivals = [o for o in others if o is not shadow and set(shadow.dims) & set(o.dims)]
        return bool(rivals) and (self.is_nameless(shadow) or self._relations.all_pinned(shadow.ids))


@cache
def _signature(func: OpOverload) -> dict[str, tuple[int, Any]]:
    """Position and default of each argument."""
    return {a.name: (i, a.default_value) for i, a in enumerate(func._schema.arguments)}


def tensors_among(values: Iterable[Any]) -> list[torch.Tensor]:
    """The tensors among arguments or results of an operator; these nest at most one list deep."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [item for item in value if isinstance(item, torch.Tensor)]
    return found


def layout_of(args: Sequence[Any]) -> Layout:
    """The layout of the first argument; empty if that is no tensor."""
    first = args[0] if args else None
    if not isinstance(first, torch.Tensor):
        return Layout((), ())
    return Layout(tuple(first.shape), first.stride() if first.layout is torch.strided else ())
