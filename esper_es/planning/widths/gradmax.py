"""New units whose gradient is as large as can be (GradMax, Evci et al. 2022).

The gradient of a new unit's outgoing weights is, with the slope of the activation between left out, a product of a
matrix with its incoming weights: ``sum(gradient ^T input)`` between two linear layers; between two convolutions as
much for each place in the second one's kernel, stacked, with the patches that the first one sees as input. For unit
vectors of incoming weights it is largest along the right singular vectors; outgoing weights are zero, so that the
function stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from attrs import field, frozen
from torch import nn
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from esper_es.domain.edits import Edit, Fill
from esper_es.domain.errors import Refused, UsageError
from esper_es.planning.observation import in_eval
from esper_es.planning.resizing import Resizing
from esper_es.planning.scene import Scene
from esper_es.planning.widths.fills import GIVEN, Filled, Silent, Slot, fans
from esper_es.projections.live.hosting import original_class
from esper_es.projections.live.names import tensor_at
from esper_es.tracing import Member

Loss = Callable[[nn.Module], torch.Tensor]
"""Takes a copy of the model, runs it on a batch, and returns a scalar loss."""


Outgoing = Callable[[torch.Tensor], torch.Tensor]
"""Gives the gradient of outgoing weights, ``(out and kernel, units)``, for what units make of a batch."""

_MATRICES = (nn.Linear, "transformers.pytorch_utils.Conv1D")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


@frozen(eq=False)
class GradMax:
    """Incoming weights along singular vectors, all else silent.

    Attributes:
        weight: name of the tensor that holds the incoming weights.
        rows: incoming weights of each new unit, ``(units, in)``, kernels flattened.
        silent: fills everything else.
    """

    weight: str
    rows: torch.Tensor
    silent: Silent = field(factory=Silent)

    def fill(self, slot: Slot) -> Filled:
        if slot.member.tensor != self.weight or slot.member.role != "producer":
            return self.silent.fill(slot)
        entries = self.rows.reshape(-1, *slot.shape[1:]) if slot.member.dim == 0 else self.rows.T
        return Fill(GIVEN, {"fan_in": fans(slot)["fan_in"]}, slot.seed), entries.to(slot.tensor().dtype)

    def finish(self, resizings: Sequence[Resizing]) -> tuple[Edit, ...]:
        return ()


def gradmax(scene: Scene, resizings: Sequence[Resizing], loss: Loss | None) -> GradMax:
    """Find the incoming weights of largest gradient on one batch.

    Raises:
        UsageError: if no loss is given, or it does not return a scalar that depends on the layers.
        Refused: if the group is not one linear layer or convolution that feeds one other at the same positions.
    """
    if not callable(loss):
        raise UsageError(
            "gradmax needs the gradient of a batch: give loss=, a function that takes a model, runs it on a batch and "
            "returns the scalar loss"
        )
    group = resizings[0].group
    feeding = _only(scene, resizings, "producer")
    reading = _only(scene, resizings, "consumer")
    fed, behind = _signals(scene.shadow, feeding.module, reading.module, loss)
    window = _Window.of(scene.shadow.get_submodule(reading.module))
    if len(fed) != len(behind) or tuple(behind.shape[2:]) != window.positions(*fed.shape[2:]):
        raise Refused(
            f"{feeding.module!r} and {reading.module!r} do not see the same positions, so that gradmax can't relate "
            "them; choose function_preserving",
            "gradmax",
        )
    weight = tensor_at(scene.live.module, feeding.tensor).detach().cpu()
    scale = weight.float().movedim(feeding.dim, 0).flatten(1).norm(dim=1).mean()
    outgoing = partial(window.weight_gradient, behind=behind)
    return GradMax(feeding.tensor, _directions(fed, outgoing, resizings[0].units - group.units) * scale)


def _only(scene: Scene, resizings: Sequence[Resizing], role: str) -> Member:
    found = [
        r.member
        for r in resizings
        if r.member.role == role and tensor_at(scene.live.module, r.member.tensor).ndim > 1
    ]
    alone = len(found) == 1 and _is_affine(scene.live.module.get_submodule(found[0].module))
    if not alone or resizings[0].group.unit_size != 1:
        names = ", ".join(member.tensor for member in found[:4]) or "nothing"
        raise Refused(
            "gradmax is for one linear layer or convolution (without groups, padded with zeros) that feeds one other; "
            f"here {role}s of the units are: {names}. Choose function_preserving",
            "gradmax",
        )
    return found[0]


def _is_affine(module: nn.Module) -> bool:
    if isinstance(module, _CONVOLUTIONS):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in original_class(module).__mro__}
    return any(cls in names if isinstance(cls, str) else isinstance(module, cls) for cls in _MATRICES)


def _signals(shadow: nn.Module, feeding: str, reading: str, loss: Loss) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the first layer sees, ``(batch, in, height, width)`` with kernels flattened into the channels and a
    position for each of its outputs, and the gradient behind the second, ``(batch, out, height, width)``.

    Rows of linear layers are batches of one position.
    """
    first, second = shadow.get_submodule(feeding), shadow.get_submodule(reading)
    inputs: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        inputs.append(args[0].detach())

    def after(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        outputs.append(output)

    handles = [first.register_forward_pre_hook(before), second.register_forward_hook(after)]
    try:
        with torch.enable_grad():
            value = in_eval(shadow, lambda: loss(shadow))
        if not isinstance(value, torch.Tensor) or value.numel() != 1 or not (inputs and outputs):
            raise UsageError("loss must run the model it is given and return a scalar tensor")
        gradients = torch.autograd.grad(value.sum(), outputs)
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            raise UsageError(f"the gradient that loss gives of {reading!r} is not finite")
        if not any(bool(gradient.any()) for gradient in gradients):
            raise UsageError(f"the gradient that loss gives of {reading!r} is zero; no direction is larger")
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"loss gives no gradient of {reading!r}: {type(error).__name__}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    fed = [_Window.of(first).patches(_positions(first, tensor.double().cpu())) for tensor in inputs]
    behind = [_positions(second, gradient.double().cpu()) for gradient in gradients]
    return torch.cat(fed), torch.cat(behind)


def _positions(layer: nn.Module, tensor: torch.Tensor) -> torch.Tensor:
    """A layer's input or output as ``(batch, channels, height, width)``; those of one sample are a batch of one."""
    if not isinstance(layer, _CONVOLUTIONS):
        return tensor.reshape(-1, tensor.shape[-1])[:, :, None, None]
    batched = tensor if tensor.ndim == len(layer.kernel_size) + 2 else tensor[None]
    return batched[..., None] if isinstance(layer, nn.Conv1d) else batched


Pair = tuple[int, int]


@frozen
class _Window:
    """How a layer moves over height and width; a linear one sees one position at a time."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    @classmethod
    def of(cls, layer: nn.Module) -> _Window:
        def pair(name: str, neutral: int) -> Pair:
            sizes = getattr(layer, name) if isinstance(layer, _CONVOLUTIONS) else ()
            height, width = (*sizes, neutral, neutral)[:2]
            return int(height), int(width)

        return cls(pair("kernel_size", 1), pair("stride", 1), pair("padding", 0), pair("dilation", 1))

    def positions(self, height: int, width: int) -> Pair:
        """How many outputs there are for an input."""
        down, across = (
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in zip(
                (height, width), self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        return down, across

    def patches(self, seen: torch.Tensor) -> torch.Tensor:
        """What each output is computed from, kernels flattened into the channels."""
        unfolded = functional.unfold(seen, self.kernel, self.dilation, self.padding, self.stride)
        return unfolded.reshape(*unfolded.shape[:2], *self.positions(*seen.shape[2:]))

    def weight_gradient(self, seen: torch.Tensor, behind: torch.Tensor) -> torch.Tensor:
        """Gradient of the weights, ``(out and kernel, in)``, from the input and the gradient of the output."""
        shape = (behind.shape[1], seen.shape[1], *self.kernel)
        gradient: torch.Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
            seen, shape, behind, self.stride, self.padding, self.dilation
        )
        return gradient.movedim(1, -1).flatten(0, -2)


def _directions(fed: torch.Tensor, outgoing: Outgoing, count: int) -> torch.Tensor:
    """Unit vectors ``(count, in)``: right singular vectors of the largest values, each with the sign that lets more
    gradient through a rectifier; then with the other sign; then drawn ones, so that no two are alike."""
    _, _, right = torch.linalg.svd(outgoing(fed), full_matrices=False)
    made = torch.einsum("nihw,di->ndhw", fed, right)
    straight, flipped = (outgoing(signed.clamp_min(0)).norm(dim=0) for signed in (made, -made))
    signed = right * torch.where(straight >= flipped, 1.0, -1.0)[:, None]
    generator = torch.Generator().manual_seed(count)
    drawn = torch.randn(
        max(0, count - 2 * len(signed)), right.shape[1], generator=generator, device="cpu"
    ).double()
    directions = torch.cat([signed, -signed, drawn / drawn.norm(dim=1, keepdim=True)])
    return directions[:count].float()
