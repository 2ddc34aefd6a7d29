"""New units whose gradient is as large as can be (GradMax, Evci et al. 2022).

Between two linear layers, the gradient of a new unit's outgoing weights is the product of the gradient behind the
second layer with what the unit is fed. For unit vectors of incoming weights its norm is largest along the right
singular vectors of ``sum(gradient ^T input)``; outgoing weights are zero, so that the function stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from attrs import field, frozen
from torch import nn

from esper_es.domain.edits import Edit, Fill
from esper_es.domain.errors import Refused, UsageError
from esper_es.planning.observation import in_eval
from esper_es.planning.resizing import Resizing
from esper_es.planning.scene import Scene
from esper_es.planning.width_fills import GIVEN, Filled, Silent, Slot, fans
from esper_es.projections.live.names import tensor_at
from esper_es.tracing import Member

Loss = Callable[[nn.Module], torch.Tensor]
"""Takes a copy of the model, runs it on a batch, and returns a scalar loss."""


@frozen(eq=False)
class GradMax:
    """Incoming weights along singular vectors, all else silent.

    Attributes:
        weight: name of the tensor that holds the incoming weights.
        rows: incoming weights of each new unit, ``(units, in)``.
        silent: fills everything else.
    """

    weight: str
    rows: torch.Tensor
    silent: Silent = field(factory=Silent)

    def fill(self, slot: Slot) -> Filled:
        if slot.member.tensor != self.weight or slot.member.role != "producer":
            return self.silent.fill(slot)
        entries = self.rows if slot.member.dim == 0 else self.rows.T
        return Fill(GIVEN, {"fan_in": fans(slot)["fan_in"]}, slot.seed), entries.to(slot.tensor().dtype)

    def finish(self, resizings: Sequence[Resizing]) -> tuple[Edit, ...]:
        return ()


def gradmax(scene: Scene, resizings: Sequence[Resizing], loss: Loss | None) -> GradMax:
    """Find the incoming weights of largest gradient on one batch.

    Raises:
        UsageError: if no loss is given, or it does not return a scalar that depends on the layers.
        Refused: if the group is not one linear layer that feeds one other.
    """
    if loss is None:
        raise UsageError(
            "gradmax needs the gradient of a batch: give loss=, a function that takes a model, runs it on a batch and "
            "returns the scalar loss"
        )
    group = resizings[0].group
    feeding = _only(scene, resizings, "producer")
    reading = _only(scene, resizings, "consumer")
    fed, behind = _signals(scene.shadow, feeding.module, reading.module, loss)
    weight = tensor_at(scene.live.module, feeding.tensor).detach().cpu()
    scale = weight.float().norm(dim=1 - feeding.dim).mean()
    rows = _directions(fed, behind, resizings[0].units - group.units) * scale
    return GradMax(feeding.tensor, rows)


def _only(scene: Scene, resizings: Sequence[Resizing], role: str) -> Member:
    found = [
        r.member
        for r in resizings
        if r.member.role == role and tensor_at(scene.live.module, r.member.tensor).ndim > 1
    ]
    alone = len(found) == 1 and tensor_at(scene.live.module, found[0].tensor).ndim == 2
    if not alone or resizings[0].group.unit_size != 1:
        names = ", ".join(member.tensor for member in found[:4]) or "nothing"
        raise Refused(
            f"gradmax is for one linear layer that feeds one other; here {role}s of the units are: {names}. Choose "
            "function_preserving",
            "gradmax",
        )
    return found[0]


def _signals(shadow: nn.Module, feeding: str, reading: str, loss: Loss) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the first layer is fed with, ``(rows, in)``, and the gradient behind the second, ``(rows, out)``."""
    inputs: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        inputs.append(args[0].detach())

    def after(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        outputs.append(output)

    handles = [
        shadow.get_submodule(feeding).register_forward_pre_hook(before),
        shadow.get_submodule(reading).register_forward_hook(after),
    ]
    try:
        with torch.enable_grad():
            value = in_eval(shadow, lambda: loss(shadow))
        if not isinstance(value, torch.Tensor) or value.numel() != 1 or not outputs:
            raise UsageError("loss must run the model it is given and return a scalar tensor")
        gradients = torch.autograd.grad(value.sum(), outputs)
    except RuntimeError as error:
        raise UsageError(f"loss gives no gradient of {reading!r}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    fed = torch.cat([x.flatten(0, -2) for x in inputs]).double().cpu()
    behind = torch.cat([g.flatten(0, -2) for g in gradients]).double().cpu()
    if len(fed) != len(behind):
        raise UsageError(
            f"{feeding!r} and {reading!r} do not see the same positions; gradmax can't relate them"
        )
    return fed, behind


def _directions(fed: torch.Tensor, behind: torch.Tensor, count: int) -> torch.Tensor:
    """Unit vectors ``(count, in)``: right singular vectors of the largest values, each with the sign that lets more
    gradient through a rectifier; then with the other sign; then drawn ones, so that no two are alike."""
    _, _, right = torch.linalg.svd(behind.T @ fed, full_matrices=False)

    def strength(direction: torch.Tensor) -> float:
        return float((behind.T @ (fed @ direction).clamp_min(0)).norm())

    signed = torch.stack([v if strength(v) >= strength(-v) else -v for v in right])
    generator = torch.Generator().manual_seed(count)
    drawn = torch.randn(max(0, count - 2 * len(signed)), fed.shape[1], generator=generator).double()
    directions = torch.cat([signed, -signed, drawn / drawn.norm(dim=1, keepdim=True)])
    return directions[:count].float()
