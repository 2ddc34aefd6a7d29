"""The chain of validators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from esper_es.validators.dimension import DimensionValidator
from esper_es.validators.gradient_flow import GradientFlowValidator
from esper_es.validators.memory import MemoryValidator
from esper_es.validators.topology import TopologyValidator
from esper_es.validators.verdict import SurgeryValidator, ValidationResult


class SurgeryValidatorChain:
    """Runs all validators in sequence.

    Args:
        validators: other validators than the four.
    """

    def __init__(self, validators: Sequence[SurgeryValidator] | None = None) -> None:
        self.validators: list[SurgeryValidator] = list(
            validators
            or (DimensionValidator(), GradientFlowValidator(), MemoryValidator(), TopologyValidator())
        )

    def validate_all(self, model: nn.Module, operation: str, **kwargs: Any) -> list[ValidationResult]:
        """Run the validators in order and stop at the first failure; arguments as ``validate``."""
        results: list[ValidationResult] = []
        for validator in self.validators:
            results.append(validator.validate(model, operation, **kwargs))
            if not results[-1].is_valid:
                break
        return results
