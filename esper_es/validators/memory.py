"""Memory: what the change costs, and whether the machine has it."""

from __future__ import annotations

from torch import nn

from esper_es.planning.capacity import available_bytes
from esper_es.projections.live.describe import devices_of
from esper_es.validators.baseline import memory_estimate
from esper_es.validators.verdict import SurgeryValidator, Trial, ValidationResult


class MemoryValidator(SurgeryValidator):
    """Estimates training memory before and after, and refuses what the device has no room for.

    The limits of ``SurgeryConstraints`` are the aggregate's to enforce.
    """

    check_name = "memory"

    def check(self, model: nn.Module, operation: str, trial: Trial) -> ValidationResult:
        activation_bytes = trial.observe(model).activation_bytes
        after = memory_estimate(model, activation_bytes, trial.optimizer)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        if trial.before is None:
            return self.verdict([], memory_bytes=after, parameters=parameters)
        growth = after - trial.before.memory_bytes
        available = available_bytes(devices_of(model))
        errors = []
        if available is not None and growth > available:
            errors.append(f"the change needs {growth / 1e6:.0f} MB, {available / 1e6:.0f} MB are free")
        return self.verdict(
            errors,
            memory_bytes=after,
            memory_growth_bytes=growth,
            parameters=parameters,
            parameter_growth=parameters - trial.before.parameters,
        )
