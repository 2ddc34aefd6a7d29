"""Width groups: everything that must grow or shrink together with the channels of one layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import cmp_using, field, frozen

from esper_es.tracing.roles import Role
from esper_es.tracing.union_find import Ids


@frozen
class Pin:
    """Why channels of ``dim`` of ``tensor`` cannot come or go; ``module`` ran the operator that says so."""

    tensor: str
    dim: int
    reason: str
    module: str


@frozen
class Reduction:
    """An operator that mixes the channels, so that a wider group changes its result; ``module`` ran it."""

    op: str
    module: str


@frozen
class Member:
    """One dimension of one tensor in a group.

    ``positions[i]`` is the ordinal of the unit that index ``i`` belongs to, -1 for indices outside the group.
    ``role`` is what the dimension does, ``roles`` everything it does where a tensor is tied or used twice.
    ``parts`` are the ends of parts that grow each by itself, where a single unit does not show them; see ``wholes``.
    """

    tensor: str
    dim: int
    module: str
    role: Role
    roles: tuple[Role, ...]
    positions: Ids = field(eq=cmp_using(eq=np.array_equal), hash=False, repr=False)
    parts: tuple[int, ...] = ()

    @property
    def covered(self) -> int:
        """How many indices belong to the group."""
        return int((self.positions >= 0).sum())


@frozen
class WidthGroup:
    """All channels that come and go with those of one dimension ``dim`` of ``tensor``, the target.

    A unit is the least that can be added or removed: one channel, one attention head, one group of a
    grouped convolution. ``size`` is the width of the target dimension and ``unit_size`` how many of its
    indices one unit takes. Units that do not touch the same tensors equally often are of several kinds:
    then ``unit_size`` is 0 if they differ in the target, and ``families`` counts the kinds of units. ``paired`` says
    that a product without weights is summed over the units, as over the states of a state space model.

    Where the units are not heads but places inside of each head (see ``heads``), ``head_size`` is the number of
    channels of one head and ``per_head`` how many of them one unit takes; both are 0 elsewhere. ``met`` says how
    many channels the products without weights are summed over that all of these are in, as queries and keys are.
    ``others`` are units of other kinds in the dimension that a group of one kind was taken from.
    """

    tensor: str
    dim: int
    units: int
    size: int
    unit_size: int
    families: int
    members: tuple[Member, ...]
    pins: tuple[Pin, ...]
    reduced_by: tuple[Reduction, ...]
    paired: bool
    head_size: int = 0
    per_head: int = 0
    met: frozenset[int] = frozenset()
    others: int = 0

    @property
    def free(self) -> bool:
        """Whether nothing pins the group."""
        return not self.pins

    @property
    def whole(self) -> bool:
        """Whether channels that a trace has apart were taken for one unit."""
        return any(member.parts for member in self.members)

    @property
    def compact(self) -> bool:
        """Whether channels of one unit are neighbours somewhere, as those of one head among several are."""
        return self.units > 1 and any(
            bool(((m.positions[1:] == m.positions[:-1]) & (m.positions[1:] >= 0)).any()) for m in self.members
        )

    def member(self, tensor: str, dim: int) -> Member | None:
        return next((m for m in self.members if (m.tensor, m.dim) == (tensor, dim)), None)

    def as_dict(self) -> dict[str, Any]:
        """The group in JSON's types."""
        return {
            "tensor": self.tensor,
            "dim": self.dim,
            "units": self.units,
            "size": self.size,
            "unit_size": self.unit_size,
            "families": self.families,
            "members": [
                {
                    "tensor": m.tensor,
                    "dim": m.dim,
                    "module": m.module,
                    "role": m.role,
                    "roles": list(m.roles),
                    "positions": m.positions.tolist(),
                }
                for m in self.members
            ],
            "pins": [
                {"tensor": p.tensor, "dim": p.dim, "reason": p.reason, "module": p.module} for p in self.pins
            ],
            "reduced_by": [{"op": r.op, "module": r.module} for r in self.reduced_by],
            "paired": self.paired,
        }
