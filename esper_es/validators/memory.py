"""Memory: what the change costs, and whether the machine has it."""

from __future__ import annotations

import os

import torch
from torch import nn

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
        available = available_bytes(model)
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


def available_bytes(model: nn.Module) -> int | None:
    """Return the free bytes on the model's device; None where the system does not tell."""
    cuda = [device for device in devices_of(model) if device.type == "cuda"]
    if cuda:
        return min(torch.cuda.mem_get_info(device)[0] for device in cuda)
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
