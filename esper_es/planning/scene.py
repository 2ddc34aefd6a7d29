"""What a planner sees, and what it returns."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from attrs import define, field, frozen
from torch import nn

from esper_es.domain.architecture import Architecture, relative_path
from esper_es.domain.edits import Edit, Fill, Initial
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.facts import Fact
from esper_es.domain.lifecycle import PERMANENT
from esper_es.domain.state import ModelState, Seed
from esper_es.domain.surgery_commands import Change
from esper_es.example_inputs import ExampleInputs
from esper_es.planning.observation import Observation, observe
from esper_es.planning.provenance import traced
from esper_es.planning.structure_memory import StructureMemory
from esper_es.projections.live.initializers import derived_slice
from esper_es.projections.live.live import Live
from esper_es.projections.live.names import named_tensors
from esper_es.tracing import Trace
from esper_es.vault import digest_of


@define(eq=False)
class Scene:
    """The model as a planner may look at it.

    Attributes:
        state: of the aggregate.
        live: the live objects; to be read only.
        shadow: a copy of the module to run.
        examples: inputs to run it on.
        memory: what earlier surgeries found out about structures.
        observation: of the copy's last run.
        careful: whether a plan is run before it is handed over.
        remembered: whether anything was taken from the memory.
        untried: whether a plan was handed over that never ran, where others might be found if it does not.
        traced: the trace of the structure as it is, once it was asked for.
        proven: the trace of the copy after the edits, once it was taken.
    """

    state: ModelState
    live: Live
    shadow: nn.Module
    examples: ExampleInputs
    memory: StructureMemory = field(factory=StructureMemory)
    observation: Observation | None = None
    careful: bool = False
    remembered: bool = field(default=False, init=False)
    untried: bool = field(default=False, init=False)
    traced: Trace | None = field(default=None, init=False)
    proven: Trace | None = field(default=None, init=False)

    @property
    def structure(self) -> str:
        """Fingerprint of the structure as it is."""
        return self.state.architecture.fingerprint

    def trace(self) -> Trace:
        """Return which channel feeds which, from memory where it was traced before.

        Raises:
            UsageError: if the model fails on its example inputs.
        """
        if self.traced is None:
            self.traced = self.memory.of(self.structure).trace
            self.remembered = self.remembered or self.traced is not None
        if self.traced is None:
            self.traced = traced(self.shadow, self.examples)
            self.memory.learn(self.structure, trace=self.traced)
        return self.traced

    def gradients(self) -> frozenset[str] | None:
        """Return the names of the parameters that a gradient reaches, if they are in memory."""
        found = self.memory.of(self.structure).gradients
        self.remembered = self.remembered or found is not None
        return found

    def trace_again(self) -> Trace:
        """Return which channel feeds which in the copy as it is now, after edits were tried on it.

        Raises: as ``trace``.
        """
        self.proven = traced(self.shadow, self.examples)
        return self.proven

    def observe(self, take: Iterable[str] = ()) -> Observation:
        """Run the copy and keep what it showed; see ``observation.observe``."""
        self.observation = observe(self.shadow, self.examples, take)
        return self.observation

    def seed(self, purpose: str) -> int:
        """Return a seed that depends on the model, its version and the purpose only."""
        text = f"{self.state.id}:{self.state.version}:{purpose}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")

    def require_layer(self, path: str) -> nn.Module:
        """Return the live module at a path.

        Raises:
            UsageError: if the path is not a string.
            Refused: if there is none, naming those that are close.
        """
        if not isinstance(path, str):
            raise UsageError(f"a layer goes by its path, which is a string; got {path!r}")
        if not path:
            raise Refused("'' names the whole model; name a layer inside it", "unknown_layer")
        if path not in self.state.architecture:
            shared = self.state.architecture.aliases.get(path)
            if shared is not None:
                raise Refused(f"layer {path!r} is the shared module {shared!r}; name that", "shared_module")
            known = [name for name in self.state.architecture.nodes if name]
            close = difflib.get_close_matches(path, known, 3) or known[:8]
            raise Refused(f"there is no layer {path!r}; there are e.g. {', '.join(close)}", "unknown_layer")
        return self.live.module.get_submodule(path)

    def seeds_on(self, path: str) -> tuple[Seed, ...]:
        """Return the seeds that stand, or may grow again, on the module at ``path`` or inside it."""
        return tuple(
            seed
            for seed in self.state.seeds.values()
            if relative_path(seed.layer, path) is not None
            and self.state.lifecycle.mode(seed.stage) != PERMANENT
        )

    def require_layer_or_tensor(self, name: str) -> None:
        """Check that there is a module or a tensor of that name.

        Raises: as ``require_layer``.
        """
        tensors = {tensor for tensor, _ in self.state.architecture.tensors()}
        if name not in tensors and name not in self.state.architecture.ties:
            self.require_layer(name)

    def require_outside_seeds(self, path: str, *, slot_too: bool) -> None:
        """Check that a surgery at ``path`` does not reach into a seed that is alive.

        Args:
            path: of a module.
            slot_too: whether the seed's slot itself, and what holds it, are out of bounds too.

        Raises:
            Refused: naming the seed's slot.
        """
        for slot in self.state.architecture.slots:
            inside = relative_path(path, slot)
            if inside or (slot_too and (inside is not None or relative_path(slot, path) is not None)):
                raise Refused(
                    f"{path!r} belongs to the seed that grows at {slot!r}; cull or fossilize the seed first",
                    "seed",
                )


@frozen(kw_only=True, eq=False)
class Plan:
    """A change, resolved into edits.

    Attributes:
        edits: what to do.
        tensors: new tensors by digest, to be stored before the edits are recorded.
        executes: paths of new modules that the model must run.
        details: for the result.
        facts: the command that says which facts would hold.
        proof: looks at the copy after the edits and returns what is wrong; None for none but that resized tensors
            keep every route.
    """

    edits: tuple[Edit, ...]
    tensors: Mapping[str, torch.Tensor] = field(factory=dict)
    executes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(factory=dict)
    facts: Callable[[ModelState, Change], tuple[Fact, ...]]
    proof: Callable[[nn.Module], tuple[str, ...]] | None = None


Planner = Callable[[Scene], Plan]


@frozen(eq=False)
class NewModule:
    """A module about to be added: description, recipe and bytes."""

    fragment: Architecture
    initial: Initial
    tensors: Mapping[str, torch.Tensor]


def new_module(
    module: nn.Module, fragment: Architecture, seed: int, fills: Mapping[str, Fill], given: bool
) -> NewModule:
    """Describe a module that was built from ``seed`` (or, when ``given``, by the caller), and apply ``fills``."""
    for name, fill in fills.items():
        owner, _, local = name.rpartition(".")
        tensor = getattr(module.get_submodule(owner), local)
        tensor.data = derived_slice(fill, tuple(tensor.shape), tensor.dtype)
    tensors: dict[str, torch.Tensor] = {}
    digests: dict[str, str] = {}
    for name, tensor, _ in named_tensors(module):
        digests[name] = digest_of(tensor)
        tensors[digests[name]] = tensor.detach().cpu()
    return NewModule(fragment, Initial(digests, seed, dict(fills), given), tensors)
