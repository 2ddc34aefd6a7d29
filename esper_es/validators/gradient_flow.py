"""Gradient flow: every parameter that learned before still does, and so does every new one."""

from __future__ import annotations

from torch import nn

from esper_es.domain.errors import Refused
from esper_es.validators.backward import gradient_flow
from esper_es.validators.verdict import SurgeryValidator, Trial, ValidationResult


class GradientFlowValidator(SurgeryValidator):
    """Runs a backward pass in training mode and looks for parameters that no gradient, or no finite one, reaches."""

    check_name = "gradient_flow"

    def check(self, model: nn.Module, operation: str, trial: Trial) -> ValidationResult:
        try:
            flow = gradient_flow(model, trial.examples)
        except Refused as refusal:
            return self.verdict([refusal.reason])
        wanted = set(trial.before.gradients) if trial.before else set()
        wanted |= {name for name in flow if any(name.startswith(f"{path}.") for path in trial.executes)}
        errors = [
            f"no gradient reaches parameter {name!r}"
            for name, finite in flow.items()
            if name in wanted and finite is None
        ]
        errors += [
            f"the gradient of parameter {name!r} is not finite"
            for name, finite in flow.items()
            if finite is False
        ]
        silent = [name for name, finite in flow.items() if finite is None and name not in wanted]
        warnings = [f"parameter {name!r} received no gradient before either" for name in silent]
        trial.gradients = frozenset(name for name, finite in flow.items() if finite is not None)
        return self.verdict(errors, warnings, parameters=len(flow), reached=len(trial.gradients))
