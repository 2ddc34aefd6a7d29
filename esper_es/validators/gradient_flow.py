"""Gradient flow: every parameter that learned before still does, and so does every new one."""

from __future__ import annotations

import math

import torch
from torch import nn

from esper_es.domain.errors import Refused
from esper_es.validators.baseline import gradients_of
from esper_es.validators.verdict import SurgeryValidator, Trial, ValidationResult


class GradientFlowValidator(SurgeryValidator):
    """Runs a backward pass in training mode and looks for parameters that no gradient, or no finite one, reaches."""

    check_name = "gradient_flow"

    def check(self, model: nn.Module, operation: str, trial: Trial) -> ValidationResult:
        try:
            gradients = gradients_of(model, trial.examples)
        except Refused as refusal:
            return self.verdict([refusal.reason])
        wanted = set(trial.before.gradients) if trial.before else set()
        wanted |= {name for name in gradients if any(name.startswith(f"{path}.") for path in trial.executes)}
        errors = [
            f"no gradient reaches parameter {name!r}"
            for name, gradient in gradients.items()
            if name in wanted and gradient is None
        ]
        errors += [
            f"the gradient of parameter {name!r} is not finite"
            for name, gradient in gradients.items()
            if gradient is not None and not _finite(gradient)
        ]
        silent = [n for n, g in gradients.items() if g is None and n not in wanted]
        warnings = [f"parameter {name!r} received no gradient before either" for name in silent]
        trial.gradients = frozenset(name for name, gradient in gradients.items() if gradient is not None)
        return self.verdict(errors, warnings, parameters=len(gradients), reached=len(trial.gradients))


def _finite(gradient: torch.Tensor) -> bool:
    """Say whether all values are finite, by the extreme ones: NaN counts as both, and nothing is allocated."""
    values = gradient if gradient.layout is torch.strided else gradient.coalesce().values()
    real = torch.view_as_real(values) if values.is_complex() else values
    return not real.numel() or all(math.isfinite(extreme) for extreme in torch.aminmax(real))
