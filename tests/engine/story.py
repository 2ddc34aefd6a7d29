"""A run of which every operation is watched: what it promises is checked after each."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from models import Zoolet
from torch import nn
from training import MakeOptimizer, train

from esper_es import (
    AlphaSchedule,
    Engine,
    Envelope,
    EsperError,
    SurgeryResult,
    WatchPolicy,
    failpoints,
    fingerprint,
)
from esper_es.domain.facts import StateCaptured
from esper_es.ledger.chain import verify_chain
from esper_es.projections.live.describe import describe
from esper_es.projections.live.modules import SeedSlot

from .photograph import differences, photograph

KERNELS = ("noop", "norm", "conv_small", "bottleneck", "lora", "mlp")
FAILPOINTS = ("operation.validated", "operation.applied", "ledger.inserted", "ledger.projected")

Act = tuple[str, int, int]
"""Name of a step of a story, and two numbers that choose what it is done to."""


class BrokenHereError(Exception):
    """Provoked at a failpoint."""


class Story:
    """A model of the zoo under training and surgery.

    Attributes:
        expected: model and state fingerprints of versions, as they were when the live run was there.
        outcomes: what each operation came to, for statistics.
    """

    def __init__(self, zoolet: Zoolet, make_optimizer: MakeOptimizer) -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        self.zoolet = zoolet
        self.model = zoolet.build()
        self.optimizer = make_optimizer(self.model)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, 0.5)
        self.inputs = zoolet.batch()
        self.outputs = copy.deepcopy(self.model).eval()(self.inputs).shape
        self.engine = Engine()
        self.run = self.engine.attach(
            self.model,
            name="story",
            example_inputs=(zoolet.batch(),),
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            blueprint=zoolet.blueprint,
            watch=WatchPolicy(metric="score", epochs=2),
        )
        self.expected: dict[int, tuple[str, str]] = {}
        self.outcomes: list[str] = []
        self._seeds = 0
        self._note()

    def act(self, step: Act) -> None:
        """Take one step and check what must hold after it."""
        name, first, second = step
        before = self._fingerprints()
        version = self.run.version
        steps: dict[str, Callable[[int, int], None]] = {
            "train": self._train,
            "epoch": self._epoch,
            "capture": lambda *_: self._successful(self.run.capture),
            "broken": self._broken,
        }
        if name in steps:
            steps[name](first, second)
        else:
            self._tried(self._operation(name, first, second))
        self._check(version, before)

    def _operation(self, name: str, first: int, second: int) -> Callable[[], SurgeryResult]:
        run, layer = self.run, self._layer(first)
        seed = self._seed(first)
        operations: dict[str, Callable[[], SurgeryResult]] = {
            "width": lambda: run.surgeon.modify_layer_width(layer_name=layer, new_width=1 + second % 12),
            "add": lambda: run.surgeon.add_layer(
                after_layer=layer,
                new_layer=self._new_layer(layer, second),
                layer_name=f"new{self.run.version}",
                connection_type=("sequential", "residual")[second % 2],
            ),
            "remove": lambda: run.surgeon.remove_layer(
                layer_name=layer, bridge_strategy=("direct", "learned")[second % 2]
            ),
            "skip": lambda: run.surgeon.add_skip_connection(from_layer=layer, to_layer=self._layer(second)),
            "plant": partial(self._plant, layer),
            "germinate": lambda: run.seeds.germinate(seed, KERNELS[second % len(KERNELS)]),
            "advance": lambda: run.seeds.advance(seed, schedule=self._schedule(seed, second)),
            "alpha": lambda: run.seeds.set_alpha(seed, (second % 11) / 10),
            "cull": lambda: run.seeds.cull(seed),
            "fossilize": lambda: run.seeds.fossilize(seed, evidence={"contribution": 1.0}),
            "rollback": lambda: run.rollback(self._version(first)),
        }
        return operations[name]

    def _train(self, first: int, _: int) -> None:
        train(self.model, self.optimizer, self.zoolet, 1 + first % 2)
        if first % 3:
            self.optimizer.zero_grad()
        self.scheduler.step()

    def _epoch(self, first: int, _: int) -> None:
        self._successful(lambda: self.run.epoch_end({"score": 1.0 - (first % 5) / 8}))

    def _successful(self, operation: Callable[[], object]) -> None:
        generators = photograph(self.run)["generators"]
        version = self.run.version
        operation()
        if not any(e.fact.__class__.__name__ == "RolledBack" for e in self._since(version)):
            assert photograph(self.run)["generators"] == generators

    def _tried(self, operation: Callable[[], SurgeryResult]) -> None:
        before = photograph(self.run)
        version = self.run.version
        names = dict(self.model.named_parameters())
        try:
            result = operation()
        except EsperError:
            self.outcomes.append("raised")
            assert (differences(before, photograph(self.run)), self.run.version) == ([], version)
            return
        self.outcomes.append(f"{result.operation} {'done' if result.success else result.check}")
        if not result.success:
            assert differences(before, photograph(self.run)) == []
        elif result.operation not in ("rollback", "fossilize_seed", "remove_layer"):
            now = dict(self.model.named_parameters())
            assert all(now[name] is parameter for name, parameter in names.items() if name in now)

    def _broken(self, first: int, second: int) -> None:
        """Break an operation in the middle: neither the model nor the log may show it."""
        name = ("width", "add", "remove", "skip", "rollback", "alpha", "cull")[first % 7]
        operation = self._operation(name, second, first)
        before, version = photograph(self.run), self.run.version
        with self._raising(FAILPOINTS[second % len(FAILPOINTS)]) as broke:
            operation()
        if broke:
            assert differences(before, photograph(self.run)) == []
            assert (self.run.version, self.engine.state("story").version) == (version, version)
        self.outcomes.append(f"broken {name} {bool(broke)}")

    @contextmanager
    def _raising(self, point: str) -> Iterator[list[bool]]:
        broke: list[bool] = []
        with failpoints.raising(point, BrokenHereError(point)):
            try:
                yield broke
            except (BrokenHereError, EsperError):
                broke.append(True)

    def _check(self, version: int, before: tuple[str, str]) -> None:
        assert describe(self.model).fingerprint == self.run.architecture.fingerprint
        for envelope in self._since(version):
            if isinstance(envelope.fact, StateCaptured):
                self.expected[envelope.version] = before
        self._note()
        self._check_seeds()
        self._check_optimizer()
        assert copy.deepcopy(self.model).eval()(self.inputs).shape == self.outputs

    def _check_seeds(self) -> None:
        """The slots in the model are in the modes, and at the alphas, that the log tells of."""
        state = self.run.state
        alive = [seed for seed in state.seeds.values() if seed.path in state.architecture.slots]
        assert sorted(str(seed.path) for seed in alive) == sorted(state.architecture.slots)
        for seed in alive:
            slot = self.model.get_submodule(str(seed.path))
            assert isinstance(slot, SeedSlot)
            assert (slot.mode, float(slot.alpha)) == (
                state.lifecycle.mode(seed.stage),
                float(torch.tensor(seed.alpha)),
            )

    def _check_optimizer(self) -> None:
        """The optimizer holds each parameter of the model once, with state of its shape."""
        members = [id(p) for group in self.optimizer.param_groups for p in group["params"]]
        assert sorted(members) == sorted(id(p) for p in self.model.parameters())
        for parameter, entries in self.optimizer.state.items():
            shapes = {v.shape for v in entries.values() if isinstance(v, torch.Tensor) and v.ndim}
            assert shapes <= {parameter.shape}

    def finish(self) -> None:
        """Check what must hold at the end of every story."""
        assert self.engine.state("story") == self.run.state
        with self.engine.log.database.connect() as connection:
            assert verify_chain(connection) == []
        known = [v for v in sorted(self.run.state.restorable) if v in self.expected]
        for version in known:
            replayed = self.engine.replay("story", version)
            assert (version, fingerprint(replayed)) == (version, self.expected[version][0])
        for version in (known[-1], known[0], known[len(known) // 2], known[-1]):
            assert self.run.rollback(version).success
            assert (version, *self._fingerprints()) == (version, *self.expected[version])
        self.engine.close()

    def _fingerprints(self) -> tuple[str, str]:
        return self.run.fingerprint, self.run.state_fingerprint

    def _note(self) -> None:
        self.expected[self.run.version] = self._fingerprints()

    def _since(self, version: int) -> tuple[Envelope, ...]:
        return self.engine.log.history(self.run.state.id, after=version)

    def _layer(self, number: int) -> str:
        layers = [*(path for path in self.run.architecture.nodes if path), "nowhere"]
        return layers[number % len(layers)]

    def _seed(self, number: int) -> str:
        seeds = [*self.run.state.seeds]
        return seeds[number % len(seeds)] if seeds and number % 8 else "unknown"

    def _version(self, number: int) -> int:
        return 1 + number % (self.run.version + 1)

    def _plant(self, layer: str) -> SurgeryResult:
        self._seeds += 1
        return self.run.seeds.plant(f"seed{self._seeds}", layer)

    def _schedule(self, seed: str, number: int) -> AlphaSchedule | None:
        known = self.run.state.seeds.get(seed)
        if known is None or known.stage != "TRAINING":
            return None
        return AlphaSchedule(epochs=1 + number % 2, target=0.5)

    def _new_layer(self, layer: str, number: int) -> nn.Module | dict[str, object]:
        node = self.run.architecture.nodes.get(layer)
        weight = None if node is None else node.tensors.get("weight")
        channels = weight.shape[0] if weight is not None else 4
        spatial = len(self.zoolet.shape)
        if number % 4 == 0:
            return nn.ReLU()
        if spatial == 1:
            spec = {"type": "linear", "in_features": channels, "out_features": channels}
            with torch.random.fork_rng(devices=[]):
                given = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, channels))
            return spec if number % 4 == 1 else given
        kind = "conv1d" if spatial == 2 else "conv2d"
        return {"type": kind, "in_channels": channels, "out_channels": channels}
