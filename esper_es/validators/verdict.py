"""What a validator is given and what it says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from attrs import define, field, frozen
from torch import nn
from torch.optim import Optimizer

from esper_es.domain.architecture import Connection
from esper_es.example_inputs import ExampleInputs, normalized
from esper_es.planning.layers.depth import DepthMode
from esper_es.planning.observation import Observation, observe
from esper_es.validators.baseline import Baseline


@frozen
class ValidationResult:
    """Result of a validation check.

    Attributes:
        is_valid: whether the surgery may go on.
        check_name: name of the validator.
        details: what was measured.
        errors: what is wrong, with layers and shapes.
        warnings: what is odd but allowed.
    """

    is_valid: bool
    check_name: str
    details: Mapping[str, Any] = field(factory=dict)
    errors: list[str] = field(factory=list)
    warnings: list[str] = field(factory=list)


@define(eq=False)
class Trial:
    """A surgery tried on a copy.

    Attributes:
        examples: inputs for the model.
        before: the copy before the surgery; None when a validator is asked about a model on its own.
        executes: paths of new modules that must run.
        connections: those that were there before.
        optimizer: of the live model, for its share of memory.
        graph_depth: parametrised operations on the longest path, once the model was observed.
        gradients: names of the parameters that a gradient reached, once that was checked.
    """

    examples: ExampleInputs
    before: Baseline | None = None
    executes: tuple[str, ...] = ()
    connections: tuple[Connection, ...] = field(default=(), kw_only=True)
    optimizer: Optimizer | None = None
    graph_depth: int = field(default=0, init=False)
    gradients: frozenset[str] = field(factory=frozenset, init=False)
    _seen: Observation | None = field(default=None, init=False)

    def observe(self, model: nn.Module) -> Observation:
        """Return a run of the model on the example inputs, and measure its depth; validators share one run."""
        if self._seen is None:
            depth = DepthMode(model.parameters())
            with depth:
                self._seen = observe(model, self.examples)
            self.graph_depth = depth.deepest
        return self._seen


class SurgeryValidator(ABC):
    """Says whether a model is sound after a surgery. It must leave the model as it found it."""

    @property
    @abstractmethod
    def check_name(self) -> str:
        """Stable name of the check."""

    @abstractmethod
    def check(self, model: nn.Module, operation: str, trial: Trial) -> ValidationResult:
        """Check a model on which a surgery was tried."""

    def validate(self, model: nn.Module, operation: str, **kwargs: Any) -> ValidationResult:
        """Validate a surgery operation.

        Args:
            model: the model after the surgery.
            operation: e.g. ``"add_layer"``.
            **kwargs: ``trial``, or ``example_inputs`` for a model on its own.
        """
        trial = kwargs.get("trial") or Trial(normalized(kwargs.get("example_inputs"), model))
        return self.check(model, operation, trial)

    def verdict(
        self, errors: list[str], warnings: list[str] | None = None, **details: Any
    ) -> ValidationResult:
        """Return a result that is valid when there are no errors."""
        return ValidationResult(not errors, self.check_name, details, errors, warnings or [])
