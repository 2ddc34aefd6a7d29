"""Gradient flow: every parameter that learned before still does, and so does every new one."""

from __future__ import annotations

from torch import nn

from esper_es.domain.errors import Refused
from esper_es.validators.backward import gradient_flow
from esper_es.validators.verdict import SurgeryValidator, Trial, ValidationResult

DRAWS = 8
"""Further passes with other random numbers, where a gradient is missed: models may drop whole layers in training
(stochastic depth, Huang et al. 2016)."""


class GradientFlowValidator(SurgeryValidator):
    """Runs a backward pass in training mode and looks for parameters that no gradient, or no finite one, reaches.

    A parameter counts as reached if any of several passes with other random numbers reaches it.
    """

    check_name = "gradient_flow"

    def check(self, model: nn.Module, operation: str, trial: Trial) -> ValidationResult:
        try:
            flow = dict(gradient_flow(model, trial.examples))
            wanted = set(trial.before.gradients) if trial.before else set()
            wanted |= {name for name in flow if any(name.startswith(f"{path}.") for path in trial.executes)}
            for draw in range(DRAWS):
                if all(flow[name] is not None for name in wanted & flow.keys()):
                    break
                again = gradient_flow(model, trial.examples, draw)
                flow = {name: again[name] if finite is None else finite for name, finite in flow.items()}
        except Refused as refusal:
            return self.verdict([refusal.reason])
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
