"""Validators: a surgery is tried on a copy before it touches the live model.

Four of them, run in order by ``SurgeryValidatorChain``: dimensions, gradient flow, memory, topology.
"""

from esper_es.validators.chain import SurgeryValidatorChain
from esper_es.validators.dimension import DimensionValidator
from esper_es.validators.gradient_flow import GradientFlowValidator
from esper_es.validators.memory import MemoryValidator
from esper_es.validators.topology import TopologyValidator
from esper_es.validators.verdict import SurgeryValidator, Trial, ValidationResult

__all__ = [
    "DimensionValidator",
    "GradientFlowValidator",
    "MemoryValidator",
    "SurgeryValidator",
    "SurgeryValidatorChain",
    "TopologyValidator",
    "Trial",
    "ValidationResult",
]
