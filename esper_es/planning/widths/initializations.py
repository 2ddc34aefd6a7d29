"""Which filling an initialization means for the groups that grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from attrs import frozen

from esper_es.domain.edits import Edit, SetAttribute
from esper_es.domain.errors import Refused, UsageError
from esper_es.planning.resizing import Resizing, are_apart
from esper_es.planning.scene import Scene
from esper_es.planning.trial import SINGLE, difference, require_alive, tolerance
from esper_es.planning.widths.edits import Filled, filled
from esper_es.planning.widths.fills import Filling, OneSided, Silent, Split, Zeros
from esper_es.planning.widths.gradmax import Loss, gradmax
from esper_es.planning.widths.streams import Stream

INITIALIZATIONS = ("function_preserving", "kaiming", "xavier", "zeros", "net2wider", "gradmax")

ALONE = ("zeros", "net2wider", "gradmax")
"""They look at a whole dimension once it is changed."""


@frozen(eq=False)
class Initialized:
    """Edits with new entries filled in.

    Attributes:
        filled: the edits of tensors.
        method: what was done, in a few words.
    """

    filled: Filled
    method: str


def check_initialization(name: str) -> None:
    """Check the name of an initialization.

    Raises:
        UsageError: for an unknown one.
    """
    if name not in INITIALIZATIONS:
        raise UsageError(f"initialization is one of {', '.join(INITIALIZATIONS)}, got {name!r}")


def initialized(
    scene: Scene,
    name: str,
    resizings: Sequence[Resizing],
    attributes: Sequence[SetAttribute],
    loss: Loss | None = None,
) -> Initialized:
    """Fill new entries by an initialization.

    Raises:
        UsageError: if ``gradmax`` is asked for without a loss.
        Refused: if new units would never learn, or the initialization is not for such layers.
    """
    if not any(r.gather.added for r in resizings):
        return narrowed(scene, resizings, attributes)
    if name in ALONE and not are_apart(resizings):
        raise Refused(
            f"{name} is for layers of which each dimension changes for one reason; here, layers side by side in one "
            "change together: choose function_preserving, kaiming or xavier",
            "initialization",
        )
    if name == "gradmax":
        return _plain(scene, resizings, gradmax(scene, resizings, loss), "largest gradient, outgoing zero")
    return _METHODS.get(name, _preserving)(scene, resizings, attributes)


def _plain(scene: Scene, resizings: Sequence[Resizing], filling: Filling, method: str) -> Initialized:
    return Initialized(filled(scene, resizings, lambda _: filling), method)


def _preserving(
    scene: Scene, resizings: Sequence[Resizing], attributes: Sequence[SetAttribute]
) -> Initialized:
    """Silent new units, but where a norm mixes the channels what changes the outputs least on the example inputs:
    the first that changes them no more than rounding in single precision does, or no more than twice the least."""
    silent = Silent()
    growing = [r for r in resizings if r.gather.added]
    if not any(r.group.reduced_by for r in growing):
        plain = _plain(scene, resizings, silent, "incoming drawn, outgoing zero")
        if any(r.group.paired for r in growing) and not _keeps(scene, plain.filled, attributes):
            return _one_sided(scene, resizings, attributes)
        return plain
    limit = min(tolerance(scene), 64 * SINGLE)
    found: list[tuple[float, Initialized]] = []
    for method, filling in stream_fillings(scene, resizings):
        tried = filled(scene, resizings, partial(under_norms, filling, silent))
        changed = difference(scene, _all(tried, attributes), tried.tensors)
        found.append((changed, Initialized(tried, method)))
        if changed <= limit:
            break
    least = min(changed for changed, _ in found)
    return next(done for changed, done in found if changed <= max(limit, 2 * least))


def narrowed(scene: Scene, resizings: Sequence[Resizing], attributes: Sequence[SetAttribute]) -> Initialized:
    """Nothing else than what goes; but where norms mixed it with what stays, these rescaled, if that changes the
    outputs less: as it does where channels go that came by a widening."""
    plain = Initialized(filled(scene, resizings, lambda _: Silent()), "")
    if not any(r.group.reduced_by for r in resizings):
        return plain
    stream = Stream(scene.live.module, mean=True, readers_drawn=False)
    rescaled = Initialized(filled(scene, resizings, partial(under_norms, stream, Silent())), "norms rescaled")
    return min((plain, rescaled), key=lambda one: difference(scene, _all(one.filled, attributes), {}))


def under_norms(filling: Filling, elsewhere: Filling, resizing: Resizing) -> Filling:
    """Return the filling of channels that norms mix, or that of others."""
    return filling if resizing.group.reduced_by else elsewhere


def _one_sided(
    scene: Scene, resizings: Sequence[Resizing], attributes: Sequence[SetAttribute]
) -> Initialized:
    """Of what new units would be drawn in, as much as leaves the outputs as they are: one side of a product."""
    zero = frozenset(
        (r.member.tensor, r.member.dim, side)
        for r in resizings
        if r.growth is not None and r.member.role == "producer"
        for side in range(int(r.growth.occurrence.max()) + 1)
    )
    found = filled(scene, resizings, lambda _: OneSided(zero))
    for place in sorted(zero):
        tried = filled(scene, resizings, partial(_constantly, OneSided(zero - {place})))
        if _keeps(scene, tried, attributes):
            found, zero = tried, zero - {place}
    return Initialized(found, "one side of a product drawn, the other zero")


def _keeps(scene: Scene, tried: Filled, attributes: Sequence[SetAttribute]) -> bool:
    """Say whether the outputs stay, but for rounding."""
    return difference(scene, _all(tried, attributes), tried.tensors) <= tolerance(scene)


def _constantly(filling: Filling, _: Resizing) -> Filling:
    return filling


def _only_norms(resizings: Sequence[Resizing]) -> bool:
    """Say whether all that mixes the channels are norms with weights, behind which new channels are zero."""
    mixing = {reduction.module for r in resizings for reduction in r.group.reduced_by}
    return mixing <= {r.member.module for r in resizings if r.member.role == "affine"}


def stream_fillings(scene: Scene, resizings: Sequence[Resizing]) -> Iterator[tuple[str, Filling]]:
    """Yield what new channels that norms mix could hold, what is likely to keep the function first."""
    root = scene.live.module
    if _only_norms(resizings):
        yield "mean of the stream, norms rescaled", Stream(root, mean=True, readers_drawn=True)
        yield "zeros in the stream, norms rescaled", Stream(root, mean=False, readers_drawn=True)
    yield "mean of the stream, norms rescaled, outgoing zero", Stream(root, mean=True, readers_drawn=False)
    yield "zeros in the stream, norms rescaled, outgoing zero", Stream(root, mean=False, readers_drawn=False)
    group = next(r.group for r in resizings if r.group.reduced_by)
    if next(r.units for r in resizings if r.group is group) % group.units == 0 and are_apart(resizings):
        yield "all units split alike", Split(scene.seed("split"))
    yield "incoming drawn, outgoing zero", Silent()


def _zeros(scene: Scene, resizings: Sequence[Resizing], attributes: Sequence[SetAttribute]) -> Initialized:
    done = _plain(scene, resizings, Zeros(), "incoming zero, outgoing drawn")
    if any(r.gather.added for r in resizings):
        require_alive(scene, _all(done.filled, attributes), done.filled.tensors, resizings)
    return done


def _all(done: Filled, attributes: Sequence[SetAttribute]) -> tuple[Edit, ...]:
    return (*done.edits, *attributes)


_METHODS: dict[str, Callable[[Scene, Sequence[Resizing], Sequence[SetAttribute]], Initialized]] = {
    "function_preserving": _preserving,
    "kaiming": lambda scene, r, _: _plain(scene, r, Silent("kaiming"), "incoming kaiming, outgoing zero"),
    "xavier": lambda scene, r, _: _plain(scene, r, Silent("xavier"), "incoming xavier, outgoing zero"),
    "zeros": _zeros,
    "net2wider": lambda scene, r, _: _plain(scene, r, Split(scene.seed("split")), "old units split"),
}
