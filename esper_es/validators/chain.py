"""The chain of validators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from esper_es.projections.live.bus import SkipOrderError
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
        """Run the validators in order and stop at the first failure; arguments as ``validate``.

        A model that stops because a skip connection goes backwards shows nothing else: only those that can judge
        it without running that do.

        Raises:
            SkipOrderError: if none of them can.
        """
        results: list[ValidationResult] = []
        stopped: SkipOrderError | None = None
        for validator in self.validators:
            try:
                results.append(validator.validate(model, operation, **kwargs))
            except SkipOrderError as error:
                stopped = error
                continue
            if not results[-1].is_valid:
                return results
        if stopped is not None:
            raise stopped
        return results
