"""What a width request means: which group, and how many units it shall have."""

from __future__ import annotations

from attrs import field, frozen

from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.whole_numbers import whole
from esper_es.tracing import Trace, WidthGroup

HEAD_SIZE = "head_size"
UNITS = ("channels", "units", "heads", HEAD_SIZE)

MOST = 10**60
"""Beyond it not even arithmetic is sure to hold."""


@frozen(eq=False)
class WidthRequest:
    """A request, its arguments checked.

    Attributes:
        layer: path of a layer, or name of a tensor.
        width: wanted.
        unit: what ``width`` counts: ``"channels"``, or ``"units"`` (heads, groups of keys and values, gated
            pairs) that come and go as one, or ``"heads"``: the same, but the channels of a head that is the only one
            count as one, though each could come and go by itself; or ``"head_size"``: the channels of each head.
        dimension: ``"out"``, ``"in"``, or a dimension of the layer's weight by number.

    Raises:
        UsageError: for a wrong argument.
    """

    layer: str
    width: int = field(converter=whole)
    unit: str = "channels"
    dimension: str | int = field(default="out", converter=whole)

    def __attrs_post_init__(self) -> None:
        if isinstance(self.width, bool) or not isinstance(self.width, int) or self.width < 1:
            raise UsageError(f"new_width must be a positive integer, got {self.width!r:.80}")
        if self.width > MOST:
            raise UsageError(f"new_width is beyond all memory: {self.width!r:.40}...")
        if self.unit not in UNITS:
            raise UsageError(f"unit is one of {', '.join(UNITS)}, got {self.unit!r}")
        number = isinstance(self.dimension, int) and not isinstance(self.dimension, bool)
        if not number and self.dimension not in ("in", "out"):
            raise UsageError(
                f"dimension is 'out', 'in' or the number of a dimension of the weight, got {self.dimension!r}"
            )

    def group(self, found: Trace) -> WidthGroup:
        """Return the group that is meant.

        Raises:
            Refused: if the layer has no such width.
        """
        try:
            if isinstance(self.dimension, int):
                return found.group_of(self.layer, self.dimension)
            outgoing = found.group_of(self.layer)
            if self.dimension == "out":
                return outgoing
            return found.group_of(self.layer, self._incoming(found, outgoing))
        except UsageError as error:
            raise Refused(str(error), "no_width") from error

    def _incoming(self, found: Trace, outgoing: WidthGroup) -> int:
        """The other one of the first two dimensions of the weight."""
        tensor = found.index.named(outgoing.tensor)
        if tensor is None or len(tensor.shape) < 2 or outgoing.dim > 1:
            raise UsageError(f"{outgoing.tensor!r} has no incoming dimension")
        return 1 - outgoing.dim

    def units(self, group: WidthGroup) -> int:
        """Return how many units the group shall have.

        Raises:
            Refused: if the width is the present one, or no whole number of units.
        """
        if not group.free:
            causes = dict.fromkeys(f"{pin.tensor} dim {pin.dim} {pin.reason}" for pin in group.pins)
            raise Refused(f"{group.tensor} dim {group.dim} is pinned: {'; '.join(causes)}", "pinned")
        if group.unit_size < 1:
            raise Refused(
                f"the {group.units} units of {group.tensor} dim {group.dim} take different numbers of its channels; "
                "name a layer whose channels are all of one kind, or ask for unit='heads' if they are one",
                "width_unit",
            )
        if self.unit != "channels":
            units = self.width
        elif self.width % group.unit_size:
            raise Refused(_not_a_multiple(self.layer, self.width, group.unit_size, group.size), "width_unit")
        else:
            units = self.width // group.unit_size
        if units == group.units:
            raise Refused(f"layer {self.layer!r} has width {self.width} already", "same_width")
        return units


def _not_a_multiple(layer: str, width: int, size: int, now: int) -> str:
    multiples = [w for w in (width // size * size, (width // size + 1) * size) if w > 0]
    nearest = [f"{w}, as now," if w == now else str(w) for w in multiples]
    return (
        f"the width of {layer!r} changes in units of {size} channels; {width} is not a multiple of them, the nearest "
        f"{'are' if len(nearest) > 1 else 'is'} {' and '.join(nearest).rstrip(',')}"
    )
