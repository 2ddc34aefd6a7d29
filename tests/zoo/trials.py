"""Surgery tried on one model of the zoo: what was done, what was refused, and every law that did not hold."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Sequence
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor, nn

from esper_es import Engine, SurgeryResult
from esper_es.domain.edits import Edit
from esper_es.projections.live.describe import describe
from esper_es.tracing import WidthGroup, reads, sides_of_heads

from .looking import compiles, difference, moved, outputs, train
from .masking import gone, silenced, zeroed
from .outcomes import Outcome, Version
from .species import Species

PRESERVED = 2e-6
"""Largest relative difference, in single precision, of outputs that differ by the order of sums only."""
STEPS = 20
HEAD_CHANNELS = 2
"""How many channels come to every head, or go: rotary positions turn two together."""

STIR = 0.1

Expected = Callable[[nn.Module, SurgeryResult], list[Tensor] | None]
"""From the model before a surgery and its result: the outputs after it; None where nothing says."""


class Heads(NamedTuple):
    """Heads, by a dimension of a tensor that makes queries or keys, and how many channels of these one has."""

    tensor: str
    dim: int
    size: int


class Trials:
    """A model of the zoo, attached and trained a little, to which every trial comes back.

    Args:
        species: the model.
        engine: to whose log it is attached.
        device: where the model stands.

    Attributes:
        versions: what surgeries led to, for replays elsewhere.
        compiles: whether the model can be compiled as one graph at all.
    """

    def __init__(self, species: Species, engine: Engine, device: str = "cpu") -> None:
        torch.manual_seed(7)
        self._engine = engine
        self.species = species
        self.inputs = moved(species.inputs(), device)
        self.versions: list[Version] = []
        model = stirred(species.build()).to(device)
        self._optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        self.run = engine.attach(
            model,
            species.name,
            example_inputs=self.inputs,
            optimizer=self._optimizer,
            blueprint=species.blueprint,
        )
        train(model, self._optimizer, self.inputs, 2)
        self._home = self.run.capture()
        self._state = self.run.state_fingerprint
        self.compiles = not compiles(model, self.inputs)

    def groups(self) -> tuple[WidthGroup, ...]:
        """Return the groups that can come and go."""
        return tuple(group for group in self.run.surgeon.trace().width_groups if group.free)

    def pins(self) -> list[str]:
        """Return, for each group that can't come or go, why not."""
        groups = self.run.surgeon.trace().width_groups
        return ["; ".join(sorted({pin.reason for pin in g.pins})) for g in groups if not g.free]

    def grow(self, group: WidthGroup, *, compiled: bool = False) -> Outcome:
        """Widen a group. The function stays; where something is computed over all channels, as well as it can."""
        return self._width(
            "grow", group, self.species.units, lambda before, _: outputs(before, self.inputs), compiled
        )

    def shrink(self, group: WidthGroup, *, compiled: bool = False) -> Outcome:
        """Narrow a group. Unless something is computed over all channels, the rest computes what it computed beside
        units that nobody reads."""

        found = self.run.surgeon.trace()

        def expected(before: nn.Module, result: SurgeryResult) -> list[Tensor] | None:
            if result.details["reduced_by"]:
                return None
            return outputs(silenced(before, found, gone(before, self._last_edits())), self.inputs)

        return self._width("shrink", group, -self.species.units, expected, compiled)

    def heads(self) -> tuple[Heads, ...]:
        """Return heads whose size can be spoken of; of those in layers alike the first."""
        found = self.run.surgeon.trace()
        alike: dict[str, Heads] = {}
        for group in found.width_groups:
            kinds = [kind for side in sides_of_heads(found, group) for kind in side]
            read = [kind for kind in kinds if reads(kind)]
            made = [m for kind in kinds if kind not in read for m in kind.members if m.role == "producer"]
            if made and read:
                own = [
                    kind for kind in kinds if kind not in read and kind.member(made[0].tensor, made[0].dim)
                ]
                heads = Heads(made[0].tensor, made[0].dim, sum(kind.head_size for kind in own))
                alike.setdefault(re.sub(r"\d+", "", heads.tensor), heads)
        return tuple(alike.values())

    def larger_heads(self, heads: Heads, *, compiled: bool = False) -> Outcome:
        """Give every head more channels. The function stays."""
        size = heads.size + HEAD_CHANNELS
        return self._sized(
            "larger heads", heads, size, lambda before, _: outputs(before, self.inputs), compiled
        )

    def smaller_heads(self, heads: Heads, *, compiled: bool = False) -> Outcome:
        """Take channels from every head. The others compute what they computed beside channels that are zero."""
        size = heads.size - HEAD_CHANNELS

        def expected(before: nn.Module, result: SurgeryResult) -> list[Tensor] | None:
            if result.details["reduced_by"]:
                return None
            return outputs(zeroed(before, gone(before, self._last_edits())), self.inputs)

        return self._sized("smaller heads", heads, size, expected, compiled)

    def insert(self, *, compiled: bool = False) -> Outcome:
        """Insert a residual branch, which starts as nothing."""
        after, spec = self.species.insert
        return self._tried(
            "insert",
            after,
            lambda: self.run.surgeon.add_layer(
                after_layer=after, new_layer=spec, layer_name="zoo_layer", connection_type="residual"
            ),
            lambda before, _: outputs(before, self.inputs),
            compiled,
        )

    def remove(self, *, compiled: bool = False) -> Outcome:
        """Take a layer out."""
        layer = self.species.remove
        return self._tried(
            "remove",
            layer,
            lambda: self.run.surgeon.remove_layer(layer_name=layer),
            lambda before, result: None,
            compiled,
        )

    def skip(self, *, compiled: bool = False) -> Outcome:
        """Add the output of one layer to that of another."""
        source, target = self.species.skip
        return self._tried(
            "skip",
            f"{source} to {target}",
            lambda: self.run.surgeon.add_skip_connection(from_layer=source, to_layer=target),
            lambda before, result: None,
            compiled,
        )

    def _width(
        self, surgery: str, group: WidthGroup, units: int, expected: Expected, compiled: bool
    ) -> Outcome:
        return self._tried(
            surgery,
            f"{group.tensor} dim {group.dim}",
            lambda: self.run.surgeon.modify_layer_width(
                layer_name=group.tensor, dimension=group.dim, unit="units", new_width=group.units + units
            ),
            expected,
            compiled,
        )

    def _sized(self, surgery: str, heads: Heads, size: int, expected: Expected, compiled: bool) -> Outcome:
        return self._tried(
            surgery,
            f"{heads.tensor} dim {heads.dim}",
            lambda: self.run.surgeon.modify_layer_width(
                layer_name=heads.tensor, dimension=heads.dim, unit="head_size", new_width=size
            ),
            expected,
            compiled,
        )

    def _last_edits(self) -> Sequence[Edit]:
        """Return what the newest surgery did, coupled layers included."""
        return next(
            e.fact.edits
            for e in reversed(self._engine.history(self.species.name))
            if getattr(e.fact, "edits", ())
        )

    def _tried(
        self,
        surgery: str,
        target: str,
        operate: Callable[[], SurgeryResult],
        expected: Expected,
        compiled: bool,
    ) -> Outcome:
        """Operate, look at everything that must hold, and go back."""
        before = copy.deepcopy(self.run.model)
        began = time.perf_counter()
        result = operate()
        seconds = time.perf_counter() - began
        distance, wrong, bounded = None, [], True
        if result.success:
            bounded = not result.details.get("reduced_by")
            should = expected(before, result)
            distance = None if should is None else difference(should, outputs(self.run.model, self.inputs))
            if bounded and distance is not None and not distance <= PRESERVED:
                wrong.append(f"the outputs moved by {distance:.1e}")
            wrong += self._broken(compiled and self.compiles)
            if not self.run.rollback(self._home).success:
                wrong.append("the rollback was refused")
        if self.run.state_fingerprint != self._state:
            wrong.append("the state is not back to what it was, bit for bit")
        return Outcome(
            species=self.species.name,
            surgery=surgery,
            target=target,
            refused=result.error or "" if not result.success else "",
            moved=distance,
            bounded=bounded,
            wrong=tuple(wrong),
            seconds=seconds,
        )

    def _broken(self, compiled: bool) -> list[str]:
        """Look at everything else; train at last."""
        model, wrong = self.run.model, []
        name = self.species.name
        self.versions.append(Version(model=name, number=self.run.version, fingerprint=self.run.fingerprint))
        if not describe(model).fits(self.run.architecture):
            wrong.append("the log says another architecture than the model has")
        if compiled and (problem := compiles(model, self.inputs)):
            wrong.append(f"it does not compile any more: {problem}")
        try:
            loss = train(model, self._optimizer, self.inputs, STEPS)
        except Exception as error:  # noqa: BLE001  (whatever training raises is the finding)
            wrong.append(f"it does not train any more: {type(error).__name__}: {error}")
        else:
            if not isfinite(loss):
                wrong.append(f"its loss is {loss} after {STEPS} steps")
        return wrong


def stirred(model: nn.Module) -> nn.Module:
    """Return the model with noise on all that it learns: a head or a layer scale that starts at zero hides what is
    wrong behind it."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * STIR)
    return model
