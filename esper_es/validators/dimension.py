"""Dimensions: the model runs, and returns what it returned before."""

from __future__ import annotations

from typing import Any

from torch import nn

from esper_es.planning.observation import Observation
from esper_es.projections.live.bus import SkipOrderError
from esper_es.validators.verdict import SurgeryValidator, Trial, ValidationResult

_FORWARD_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
)
"""What a forward pass raises over tensors that do not fit it."""


class DimensionValidator(SurgeryValidator):
    """Runs the model on its example inputs and compares the shapes of its outputs with those before."""

    check_name = "dimension"

    def check(self, model: nn.Module, operation: str, trial: Trial) -> ValidationResult:
        entered: list[tuple[str, tuple[tuple[int, ...], ...]]] = []
        try:
            observation = _watched(model, trial, entered)
        except SkipOrderError:
            raise
        except _FORWARD_ERRORS as error:
            path, shapes = entered[-1] if entered else ("", ())
            layer = f"layer {path!r} ({type(model.get_submodule(path)).__name__})" if path else "the model"
            return self.verdict(
                [f"shapes are incompatible in {layer}, given {list(shapes)}: {error}"], layer=path
            )
        shapes = tuple(tuple(t.shape) for t in observation.outputs)
        if trial.before is None:
            return self.verdict([], outputs=shapes)
        expected = tuple(tuple(t.shape) for t in trial.before.observation.outputs)
        if shapes != expected:
            return self.verdict(
                [f"the model's outputs are incompatible: {shapes}, before {expected}"], outputs=shapes
            )
        return self.verdict([], outputs=shapes)


def _watched(model: nn.Module, trial: Trial, entered: list[Any]) -> Observation:
    """Run the model, keeping a stack of the modules entered and not left."""
    names = {id(module): path for path, module in model.named_modules()}

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        entered.append((names[id(module)], tuple(tuple(a.shape) for a in args if hasattr(a, "shape"))))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        entered.pop()

    handles = [m.register_forward_pre_hook(enter) for m in model.modules()]
    handles += [m.register_forward_hook(leave) for m in model.modules()]
    try:
        return trial.observe(model)
    finally:
        for handle in handles:
            handle.remove()
