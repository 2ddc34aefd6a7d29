"""esper-es: every change to a model is a fact in a log.

Names are loaded when they are first used, so that the command line does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esper_es.deferring import Deferred
    from esper_es.domain import facts
    from esper_es.domain.alpha import AlphaSchedule
    from esper_es.domain.architecture import Architecture
    from esper_es.domain.constraints import SurgeryConstraints
    from esper_es.domain.decisions import AdaptationDecision
    from esper_es.domain.envelope import Cause, Envelope
    from esper_es.domain.errors import (
        ConflictError,
        EsperError,
        IntegrityFailure,
        LedgerError,
        MissingTensorError,
        OutcomeUnknownError,
        ReplayError,
        UsageError,
        VaultError,
    )
    from esper_es.domain.lifecycle import ESPER_LITE, LifecycleProfile, strict
    from esper_es.domain.model import folded
    from esper_es.domain.policies import CapturePolicy, WatchPolicy
    from esper_es.domain.state import ModelState
    from esper_es.engine import Engine
    from esper_es.fingerprints import fingerprint
    from esper_es.planning.attributes.width_adapters import SizeChange, WidthRepair, width_adapter
    from esper_es.projections.live.blueprints import blueprint
    from esper_es.projections.live.describe import describe
    from esper_es.projections.live.kernels import KernelSite, kernel
    from esper_es.projections.live.kinds import layer_kind
    from esper_es.projections.metrics import SurgeryMetrics
    from esper_es.rebuilding import Replay
    from esper_es.result import SurgeryResult
    from esper_es.run import Run
    from esper_es.surgeon import ModelSurgeon
    from esper_es.tracing import Explanation
    from esper_es.validators import (
        DimensionValidator,
        GradientFlowValidator,
        MemoryValidator,
        SurgeryValidator,
        SurgeryValidatorChain,
        TopologyValidator,
        ValidationResult,
    )

_HOMES = {
    "Deferred": "deferring",
    "AlphaSchedule": "domain.alpha",
    "Architecture": "domain.architecture",
    "SurgeryConstraints": "domain.constraints",
    "AdaptationDecision": "domain.decisions",
    "Cause": "domain.envelope",
    "Envelope": "domain.envelope",
    "ConflictError": "domain.errors",
    "EsperError": "domain.errors",
    "IntegrityFailure": "domain.errors",
    "LedgerError": "domain.errors",
    "MissingTensorError": "domain.errors",
    "OutcomeUnknownError": "domain.errors",
    "ReplayError": "domain.errors",
    "UsageError": "domain.errors",
    "VaultError": "domain.errors",
    "ESPER_LITE": "domain.lifecycle",
    "LifecycleProfile": "domain.lifecycle",
    "strict": "domain.lifecycle",
    "folded": "domain.model",
    "CapturePolicy": "domain.policies",
    "WatchPolicy": "domain.policies",
    "ModelState": "domain.state",
    "Engine": "engine",
    "fingerprint": "fingerprints",
    "SizeChange": "planning.attributes.width_adapters",
    "WidthRepair": "planning.attributes.width_adapters",
    "width_adapter": "planning.attributes.width_adapters",
    "blueprint": "projections.live.blueprints",
    "describe": "projections.live.describe",
    "KernelSite": "projections.live.kernels",
    "kernel": "projections.live.kernels",
    "layer_kind": "projections.live.kinds",
    "SurgeryMetrics": "projections.metrics",
    "Replay": "rebuilding",
    "SurgeryResult": "result",
    "Run": "run",
    "ModelSurgeon": "surgeon",
    "Explanation": "tracing",
    "DimensionValidator": "validators",
    "GradientFlowValidator": "validators",
    "MemoryValidator": "validators",
    "SurgeryValidator": "validators",
    "SurgeryValidatorChain": "validators",
    "TopologyValidator": "validators",
    "ValidationResult": "validators",
}

__all__ = [
    "ESPER_LITE",
    "AdaptationDecision",
    "AlphaSchedule",
    "Architecture",
    "CapturePolicy",
    "Cause",
    "ConflictError",
    "Deferred",
    "DimensionValidator",
    "Engine",
    "Envelope",
    "EsperError",
    "Explanation",
    "GradientFlowValidator",
    "IntegrityFailure",
    "KernelSite",
    "LedgerError",
    "LifecycleProfile",
    "MemoryValidator",
    "MissingTensorError",
    "ModelState",
    "ModelSurgeon",
    "OutcomeUnknownError",
    "Replay",
    "ReplayError",
    "Run",
    "SizeChange",
    "SurgeryConstraints",
    "SurgeryMetrics",
    "SurgeryResult",
    "SurgeryValidator",
    "SurgeryValidatorChain",
    "TopologyValidator",
    "UsageError",
    "ValidationResult",
    "VaultError",
    "WatchPolicy",
    "WidthRepair",
    "blueprint",
    "describe",
    "facts",
    "fingerprint",
    "folded",
    "kernel",
    "layer_kind",
    "strict",
    "width_adapter",
]


def __getattr__(name: str) -> object:
    if name == "facts":
        return import_module(f"{__name__}.domain.facts")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
