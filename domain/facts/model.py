"""A model comes under the engine's care."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from esper_es.domain.architecture import Architecture
from esper_es.domain.canonical import Json
from esper_es.domain.constraints import SurgeryConstraints
from esper_es.domain.edits import Edit
from esper_es.domain.facts.environment import Environment
from esper_es.domain.lifecycle import LifecycleProfile
from esper_es.domain.policies import CapturePolicy, WatchPolicy


@frozen(kw_only=True)
class BaseModel:
    """What a model was before its first change, and how to build it again.

    Attributes:
        blueprint: name of a registered blueprint, or None when ``architecture`` describes it fully.
        arguments: the blueprint's arguments.
        architecture: description at birth.
        memory_bytes: estimated training memory at birth.
        graph_depth: parametrised operations on the longest path at birth.
        outputs: shapes of the example outputs at birth, for the reader.
    """

    blueprint: str | None
    arguments: Mapping[str, Json]
    architecture: Architecture
    memory_bytes: int
    graph_depth: int = 0
    outputs: tuple[tuple[int, ...], ...] = ()


@frozen(kw_only=True)
class ModelRegistered:
    """A model came under the engine's care.

    Attributes:
        name: unique in the log.
        base: what it was.
        edits: changes inherited from the model it was forked from.
        forked_from: ``(name, version)`` of that model.
        constraints: limits; None for none.
        capture: capture policy.
        watch: watch policy; None when no metric judges surgeries.
        lifecycle: profile of its seeds.
        environment: where.
        examples: digest of the example inputs in the vault; None where they can't be stored without pickle.
    """

    name: str
    base: BaseModel
    edits: tuple[Edit, ...] = ()
    forked_from: tuple[str, int] | None = None
    constraints: SurgeryConstraints | None = None
    capture: CapturePolicy
    watch: WatchPolicy | None = None
    lifecycle: LifecycleProfile
    environment: Environment
    examples: str | None = None
