"""Results of a removed layer, besides its stream, that other modules take."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from esper_es.domain.architecture import split_path
from esper_es.domain.errors import Refused
from esper_es.planning.observation import Observation, observe
from esper_es.planning.scene import Scene
from esper_es.planning.taken import Taken
from esper_es.projections.live.names import module_at
from esper_es.projections.live.structures import with_entry


def require_unmissed(scene: Scene, observation: Observation, path: str, standing: nn.Module) -> None:
    """Check that the model computes the same whether or not a stand-in hands on what the layer handed on.

    A model that makes up for what is left out (a mask, a bias of zeros) does.

    Args:
        scene: the copy is run twice.
        observation: of the copy with the layer.
        path: of the layer.
        standing: what would take its place.

    Raises:
        Refused: naming the module that takes what is left out.
    """
    left_out = [location for call in observation.taken[path] for location in call.left_out]
    if not left_out:
        return
    location, reader = observation.side_readers.get(path, (left_out[0], None))
    without = _run_with(scene, path, standing)
    if without is not None and reader is None:
        return
    handing = _run_with(scene, path, _Handing(standing, observation.taken[path]))
    if handing is not None and (without is None or not _same(without, handing)):
        entry = "".join(f"[{key!r}]" for key in location)
        taker = "the code around it" if reader is None else repr(reader)
        raise Refused(
            f"layer {path!r} also returns {entry}, which {taker} takes; without the layer nobody would make it; what "
            "can go is a layer inside it that does not make this, or one behind it that only hands it on",
            "side_output",
        )


class _Handing(nn.Module):
    """A stand-in that hands on what the layer handed on in the recorded calls, in their order."""

    def __init__(self, standing: nn.Module, calls: tuple[Taken, ...]) -> None:
        super().__init__()
        self.standing = standing
        self.kept = getattr(standing, "kept", {})
        self.calls = iter(calls)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        result = self.standing(*args, **kwargs)
        for location, value in next(self.calls).left_out.items():
            result = with_entry(result, location, value)
        return result

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("standing"), name)


def _run_with(scene: Scene, path: str, module: nn.Module) -> tuple[torch.Tensor, ...] | None:
    """Return the outputs of the copy with another module at ``path``; None if it fails."""
    parent_path, name = split_path(path)
    parent = module_at(scene.shadow, parent_path)
    layer = parent._modules[name]
    try:
        parent._modules[name] = module
        return observe(scene.shadow, scene.examples).outputs
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError):
        return None
    finally:
        parent._modules[name] = layer


def _same(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, other, strict=True)
    )
