"""The proof of plans that bring none of their own: resized tensors must keep every route."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from esper_es.domain.edits import Edit, ResizeTensor
from esper_es.planning.scene import Scene
from esper_es.tracing import prove


def routing_proof(scene: Scene, edits: Iterable[Edit]) -> Callable[[nn.Module], tuple[str, ...]] | None:
    """Return a proof by a second trace; None where no tensor of the model is resized.

    Args:
        scene: before the edits are tried on its copy, which is traced now if it never was.
        edits: of a plan.
    """
    resizes = [edit for edit in edits if isinstance(edit, ResizeTensor)]
    if not resizes:
        return None
    before = scene.trace()
    maps: dict[tuple[str, int], list[int]] = {}
    for edit in resizes:
        known = before.index.named(edit.tensor)
        if known is not None:
            earlier = maps.get((known.name, edit.dim))
            gather = list(edit.gather)
            maps[known.name, edit.dim] = (
                gather if earlier is None else [earlier[index] if index >= 0 else index for index in gather]
            )
    return lambda _: prove(before, scene.trace_again(), maps)
