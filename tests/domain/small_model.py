"""A model of three layers and its log in memory, driven by the domain's own commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import define, evolve, field

from esper_es.domain import clock_commands, seed_commands, surgery_commands
from esper_es.domain.architecture import Architecture, Connection, ModuleNode, TensorSpec
from esper_es.domain.clock_commands import end_epoch, tick_seeds
from esper_es.domain.constraints import SurgeryConstraints
from esper_es.domain.edits import AddModule, Connect, Edit, Initial, RemoveModule, ResizeTensor, SetAttribute
from esper_es.domain.envelope import Cause, Envelope, model_id
from esper_es.domain.facts import (
    BaseModel,
    Effects,
    Environment,
    Fact,
    ModelRegistered,
    RolledBack,
    StateCaptured,
)
from esper_es.domain.fold import fold
from esper_es.domain.index_map import IndexMap
from esper_es.domain.lifecycle import ESPER_LITE, LifecycleProfile
from esper_es.domain.model import Moment, enveloped, folded, recorded, restorable
from esper_es.domain.policies import CapturePolicy, WatchPolicy
from esper_es.domain.state import ModelState

MEMORY = 1_000_000
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
UNLIMITED = SurgeryConstraints(
    max_layers_to_add=1000,
    max_layers_to_remove=1000,
    max_width_multiplier=1e6,
    min_width_divisor=1e6,
    min_epochs_between_surgeries=0,
    max_surgeries_per_epoch=1000,
    max_parameter_increase=1e6,
    max_memory_increase_mb=1e9,
    max_skip_connections=1000,
    max_graph_depth=10_000,
)


def parameter(*shape: int) -> TensorSpec:
    return TensorSpec(shape, "float32", "parameter")


def linear(inputs: int, outputs: int) -> ModuleNode:
    return ModuleNode(
        "linear",
        {"in_features": inputs, "out_features": outputs, "bias": True},
        {"weight": parameter(outputs, inputs), "bias": parameter(outputs)},
    )


def leaf(node: ModuleNode) -> Architecture:
    """A fragment of one module."""
    return Architecture({"": node})


BASE = Architecture(
    {
        "": ModuleNode("sequential", children=("first", "act", "last")),
        "first": linear(4, 8),
        "act": ModuleNode("relu", {"inplace": False}),
        "last": linear(8, 2),
    }
)
"""58 parameters at birth."""


def adding(path: str, fragment: Architecture, after: str | None = "first") -> AddModule:
    return AddModule(path=path, fragment=fragment, after=after, initial=Initial(seed=7), like="first")


def slot(seed: str) -> AddModule:
    """A seed's slot with its kernel in it."""
    alpha = TensorSpec((), "float32", "buffer")
    node = ModuleNode("seed_slot", {"mode": "incubating"}, {"alpha": alpha}, ("kernel",))
    return adding(seed, Architecture({"": node, "kernel": linear(8, 8)}))


def effects(*, memory_bytes: int = MEMORY, graph_depth: int = 2) -> Effects:
    return Effects(memory_bytes=memory_bytes, graph_depth=graph_depth)


def captured(reason: str = "asked", of_version: int = 0) -> StateCaptured:
    return StateCaptured(
        of_version=of_version,
        manifest="blake3:m",
        model_fingerprint="sha256:model",
        tensors=4,
        nbytes=232,
        reason=reason,
    )


def change(*edits: Edit, capture: bool = True, effects: Effects = effects()) -> surgery_commands.Change:  # noqa: B008 - frozen
    return surgery_commands.Change(
        edits=edits, effects=effects, capture=captured("before") if capture else None
    )


@define
class Log:
    """A log in memory and the state folded from it."""

    state: ModelState
    envelopes: list[Envelope]
    step: int = 0
    names: int = field(default=0)

    @classmethod
    def of(
        cls,
        *,
        constraints: SurgeryConstraints | None = None,
        lifecycle: LifecycleProfile = ESPER_LITE,
        watch: WatchPolicy | None = None,
        capture: CapturePolicy = CapturePolicy(),  # noqa: B008 - frozen
        inherited: tuple[Edit, ...] = (),
    ) -> Log:
        """Register a fresh model, or one forked from a model with these edits."""
        birth = ModelRegistered(
            name="digits",
            base=BaseModel(blueprint=None, arguments={}, architecture=BASE, memory_bytes=MEMORY),
            edits=inherited,
            forked_from=("parent", 9) if inherited else None,
            constraints=constraints,
            capture=capture,
            watch=watch,
            lifecycle=lifecycle,
            environment=ENVIRONMENT,
        )
        envelopes = enveloped(model_id("digits"), 0, [birth], Cause(), Moment(at=_AT, epoch=0, step=0))
        return cls(folded(None, envelopes), list(envelopes))

    def record(self, *facts: Fact) -> int:
        """Append facts and return the version of the last one."""
        moment = Moment(at=_AT, epoch=self.state.epoch, step=self.step)
        self.state, envelopes = recorded(self.state, facts, Cause(actor="test"), moment)
        self.envelopes.extend(envelopes)
        return self.state.version

    def replayed(self) -> ModelState | None:
        return fold(None, self.envelopes)

    def train(self, steps: int = 10) -> None:
        """Take optimizer steps, as the live run would."""
        self.step += steps
        if facts := clock_commands.continue_training(self.state, self.step):
            self.record(*facts)

    def epoch(self, epochs: int = 1, **metrics: float) -> None:
        """End epochs, and let seeds live on."""
        for _ in range(epochs):
            self.train()
            self.record(end_epoch(self.state, metrics, self.step))
            self.record(*tick_seeds(self.state))

    def capture(self, reason: str = "asked") -> int:
        return self.record(evolve(captured(reason), of_version=self.state.version))

    def rollback(self, to_version: int) -> int:
        """Roll back, keeping the state that is left."""
        source = restorable(self.state, to_version)
        left = self.capture("before rollback")
        return self.record(
            RolledBack(
                to_version=to_version,
                capture_version=source.capture,
                from_version=left,
                base_capture=left,
                fingerprint="sha256:whole",
                model_fingerprint="sha256:model",
                expected_fingerprint=None,
                epochs_discarded=0,
                steps_discarded=0,
                trigger="asked",
                reason="",
            )
        )

    def _name(self) -> str:
        self.names += 1
        return f"added{self.names}"

    def add_layer(
        self,
        fragment: Architecture = leaf(ModuleNode("relu")),  # noqa: B008 - frozen
        *,
        capture: bool = True,
        effects: Effects = effects(),  # noqa: B008 - frozen
    ) -> int:
        """Insert a layer after ``first`` and return its version, which is not the last one while watched."""
        name = self._name()
        facts = surgery_commands.add_layer(
            self.state,
            change(adding(name, fragment), capture=capture, effects=effects),
            layer_name=name,
            after_layer="first",
            connection_type="sequential",
            kind=fragment.nodes[""].kind,
        )
        version = self.state.version + 1 + capture
        self.record(*facts)
        return version

    def remove_layer(self, path: str) -> int:
        facts = surgery_commands.remove_layer(
            self.state,
            change(RemoveModule(path)),
            layer_name=path,
            bridge_strategy="direct",
            adapter_added=False,
            bridge_r2=None,
        )
        return self.record(*facts)

    def set_width(self, new: int) -> int:
        """Resize the layer ``first`` by its true edits, and what it feeds."""
        old = self.state.architecture.tensor("first.bias").shape[0]
        gather = IndexMap.of([*range(min(old, new)), *[-1] * max(new - old, 0)])
        edits = (
            ResizeTensor("first.weight", 0, gather),
            ResizeTensor("first.bias", 0, gather),
            ResizeTensor("last.weight", 1, gather),
            SetAttribute("first", "out_features", new),
            SetAttribute("last", "in_features", new),
        )
        facts = surgery_commands.modify_layer_width(
            self.state,
            change(*edits),
            layer_name="first",
            old_width=old,
            new_width=new,
            initialization="kaiming",
            kept_units=None,
        )
        return self.record(*facts)

    def skip(self) -> int:
        name = self._name()
        connection = Connection(name, "skip", "first", "act", None, self.names, "add")
        facts = surgery_commands.add_skip_connection(
            self.state,
            change(Connect(connection)),
            from_layer="first",
            to_layer="act",
            connection_type="add",
            connection_id=name,
            projection=None,
        )
        return self.record(*facts)

    def plant(self, seed: str) -> int:
        return self.record(*seed_commands.plant(self.state, seed, "first"))

    def germinate(self, seed: str, arguments: Mapping[str, object] | None = None) -> int:
        facts = seed_commands.germinate(
            self.state, seed, change(slot(seed)), kernel="mlp", arguments=arguments or {}, evidence={}
        )
        return self.record(*facts)

    def advance(self, seed: str, trigger: str = "advance") -> int:
        return self.record(*seed_commands.advance(self.state, seed, trigger, evidence={}))

    def cull(self, seed: str) -> int:
        facts = seed_commands.cull(self.state, seed, change(RemoveModule(seed)), reason="no gain")
        return self.record(*facts)

    def fossilize(self, seed: str, contribution: float) -> int:
        facts = seed_commands.fossilize(
            self.state,
            seed,
            change(SetAttribute(seed, "mode", "permanent")),
            layer=seed,
            evidence={"contribution": contribution},
        )
        return self.record(*facts)

    def grow(self, seed: str, stage: str) -> None:
        """Bring a new seed to a stage that lies on the way from DORMANT to FOSSILIZED."""
        self.plant(seed)
        for reached in ("GERMINATED", "TRAINING", "BLENDING", "HOLDING", "FOSSILIZED"):
            if self.state.seeds[seed].stage == stage:
                return
            self._take_step(seed, reached)
            assert self.state.seeds[seed].stage == reached

    def _take_step(self, seed: str, stage: str) -> None:
        match stage:
            case "GERMINATED":
                self.germinate(seed)
            case "TRAINING":
                self.advance(seed)
            case "BLENDING":
                self.epoch()
                self.advance(seed)
            case "HOLDING":
                self.epoch(5)
            case "FOSSILIZED":
                self.epoch()
                self.fossilize(seed, contribution=0.5)


def facts_of(log: Log) -> Sequence[Fact]:
    return [envelope.fact for envelope in log.envelopes]


_AT = "2026-11-23T10:00:00.000000+00:00"
