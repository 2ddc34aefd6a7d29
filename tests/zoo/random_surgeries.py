"""Random surgeries, one after another, on a model of the zoo, each checked for what must hold after it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from esper_es import Engine, SurgeryResult, fingerprint
from esper_es.projections.live.describe import describe
from esper_es.tracing import ModuleCall, WidthGroup

from .looking import difference, outputs, train
from .species import Species, conv, linear
from .trials import PRESERVED, stirred

Act = tuple[str, int, int]
"""Name of an act, and two numbers that choose what it is done to."""

ACTS = ("grow", "grow", "shrink", "insert", "remove", "skip", "train", "back")


class RandomSurgeries:
    """A model of the zoo under surgery; the laws are checked after every act.

    Args:
        species: the model.
        engine: to whose log it is attached.

    Attributes:
        outcomes: what every act came to, for statistics.
    """

    def __init__(self, species: Species, engine: Engine) -> None:
        torch.manual_seed(7)
        self._engine = engine
        self._species = species
        self._inputs = species.inputs()
        model = stirred(species.build())
        self._optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        self._run = engine.attach(
            model,
            species.name,
            example_inputs=self._inputs,
            optimizer=self._optimizer,
            blueprint=species.blueprint,
        )
        self._known: dict[int, tuple[str, str]] = {}
        self.outcomes: list[str] = []
        self._capture()

    def act(self, act: Act) -> None:
        """Do one thing and check the laws."""
        name, first, second = act
        if name == "train":
            train(self._run.model, self._optimizer, self._inputs, 1 + first % 3)
            self._capture()
        elif name == "back":
            self._go_back(first)
        else:
            operations: Mapping[str, Callable[[int, int], SurgeryResult | None]] = {
                "grow": self._grow,
                "shrink": self._shrink,
                "insert": self._insert,
                "remove": self._remove,
                "skip": self._skip,
            }
            self._operate(name, lambda: operations[name](first, second))

    def finish(self) -> None:
        """Check that every version that was captured comes back, in the run and by a replay."""
        for version, (bytes_of, state) in self._known.items():
            replayed = self._engine.replay(self._species.name, version)
            assert replayed.esper_replay.exact
            assert (version, fingerprint(replayed)) == (version, bytes_of)
            assert self._run.rollback(version).success
            assert (version, self._run.state_fingerprint) == (version, state)

    def _operate(self, name: str, operation: Callable[[], SurgeryResult | None]) -> None:
        before, state = copy.deepcopy(self._run.model), self._run.state_fingerprint
        result = operation()
        self.outcomes.append(f"{name}: {'done' if result is None or result.success else result.check}")
        if result is None or not result.success:
            assert self._run.state_fingerprint == state
            return
        assert describe(self._run.model).fingerprint == self._run.architecture.fingerprint
        held = [id(p) for group in self._optimizer.param_groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in self._run.model.parameters())
        was, now = outputs(before, self._inputs), outputs(self._run.model, self._inputs)
        assert now[0].shape == was[0].shape
        if name == "insert" or (name == "grow" and not result.details["reduced_by"]):
            assert difference(was, now) <= PRESERVED
        train(self._run.model, self._optimizer, self._inputs, 1)
        self._capture()

    def _capture(self) -> None:
        version = self._run.capture()
        self._known[version] = (self._run.fingerprint, self._run.state_fingerprint)

    def _go_back(self, number: int) -> None:
        version = sorted(self._known)[number % len(self._known)]
        assert self._run.rollback(version).success
        assert self._run.state_fingerprint == self._known[version][1]

    def _grow(self, first: int, second: int) -> SurgeryResult | None:
        return self._width(first, lambda group: group.units + self._species.units * (1 + second % 3))

    def _shrink(self, first: int, second: int) -> SurgeryResult | None:
        return self._width(first, lambda group: group.units - self._species.units * (1 + second % 3))

    def _width(self, number: int, units: Callable[[WidthGroup], int]) -> SurgeryResult | None:
        groups = self._run.surgeon.trace().width_groups
        group = groups[number % len(groups)]
        if units(group) < 1:
            return None
        return self._run.surgeon.modify_layer_width(
            layer_name=group.tensor, dimension=group.dim, unit="units", new_width=units(group)
        )

    def _insert(self, first: int, second: int) -> SurgeryResult | None:
        call = _chosen(self._calls(), first)
        spec = _layer_behind(call, second)
        if spec is None:
            return None
        return self._run.surgeon.add_layer(
            after_layer=call.path,
            new_layer=spec,
            layer_name=f"new{self._run.version}",
            connection_type="residual",
        )

    def _remove(self, first: int, second: int) -> SurgeryResult:
        return self._run.surgeon.remove_layer(
            layer_name=_chosen(self._calls(), first).path, bridge_strategy=("direct", "learned")[second % 2]
        )

    def _skip(self, first: int, second: int) -> SurgeryResult:
        calls = self._calls()
        return self._run.surgeon.add_skip_connection(
            from_layer=_chosen(calls, first).path,
            to_layer=_chosen(calls, second).path,
            connection_type=("add", "concat")[second % 2],
        )

    def _calls(self) -> Sequence[ModuleCall]:
        return [call for call in self._run.surgeon.trace().calls if call.path and call.outputs]


def _chosen(calls: Sequence[ModuleCall], number: int) -> ModuleCall:
    return calls[number % len(calls)]


def _layer_behind(call: ModuleCall, number: int) -> dict[str, Any] | nn.Module | None:
    shape = call.outputs[0]
    if len(shape) == 4 and number % 2 == 0:
        return conv(shape[1])
    if len(shape) < 2:
        return None
    return linear(shape[-1]) if number % 3 else nn.Tanh()
