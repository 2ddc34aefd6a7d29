"""A small model for these tests, without torch."""

from __future__ import annotations

from esper_es.domain.architecture import Architecture, ModuleNode, TensorSpec
from esper_es.domain.constraints import SurgeryConstraints
from esper_es.domain.edits import AddModule, Initial
from esper_es.domain.facts import BaseModel, Environment, ModelRegistered, StateCaptured
from esper_es.domain.lifecycle import ESPER_LITE
from esper_es.domain.policies import CapturePolicy, WatchPolicy

ENVIRONMENT = Environment(
    esper_es="0.1.0",
    python="3.11.9",
    torch="2.6.0",
    device="cpu",
    cpu_capability="AVX2",
    threads=2,
    deterministic=True,
    default_dtype="float32",
    code_commit="abc123",
)


def parameter(*shape: int) -> TensorSpec:
    return TensorSpec(shape, "float32", "parameter")


def linear(inputs: int, outputs: int) -> ModuleNode:
    return ModuleNode(
        "linear",
        {"in_features": inputs, "out_features": outputs},
        {"weight": parameter(outputs, inputs), "bias": parameter(outputs)},
    )


BASE = Architecture(
    {
        "": ModuleNode("sequential", children=("first", "act", "last")),
        "first": linear(4, 8),
        "act": ModuleNode("relu"),
        "last": linear(8, 2),
    }
)
"""58 parameters."""


def registration(
    name: str,
    *,
    constraints: SurgeryConstraints | None = None,
    watch: WatchPolicy | None = None,
    forked_from: tuple[str, int] | None = None,
) -> ModelRegistered:
    return ModelRegistered(
        name=name,
        base=BaseModel(blueprint=None, arguments={}, architecture=BASE, memory_bytes=1000),
        constraints=constraints,
        capture=CapturePolicy(),
        watch=watch,
        forked_from=forked_from,
        lifecycle=ESPER_LITE,
        environment=ENVIRONMENT,
    )


def captured(reason: str = "asked", of_version: int = 0, manifest: str = "blake3:m") -> StateCaptured:
    return StateCaptured(
        of_version=of_version,
        manifest=manifest,
        model_fingerprint="sha256:model",
        tensors=4,
        nbytes=232,
        reason=reason,
    )


def slot(seed: str) -> AddModule:
    """A seed's slot with its kernel in it."""
    alpha = TensorSpec((), "float32", "buffer")
    node = ModuleNode("seed_slot", {"mode": "incubating"}, {"alpha": alpha}, ("kernel",))
    fragment = Architecture({"": node, "kernel": linear(8, 8)})
    return AddModule(seed, fragment, "first", Initial(seed=7), "first")
