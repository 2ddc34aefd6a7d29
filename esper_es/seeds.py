"""The seeds of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import NoneType

from esper_es.domain import seed_commands
from esper_es.domain.alpha import AlphaSchedule
from esper_es.domain.canonical import Json
from esper_es.domain.envelope import Cause
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.facts import Fact
from esper_es.domain.state import ModelState, Seed
from esper_es.noticing import notice
from esper_es.operations import (
    Request,
    arguments_as_json,
    commit_edits,
    perform,
    refuse,
)
from esper_es.planning.layers.seeding import plan_cull, plan_fossilize, plan_germinate
from esper_es.projections.live.modules import SeedSlot
from esper_es.result import SurgeryResult
from esper_es.scalars import Number, plain_numbers
from esper_es.session import Session
from esper_es.stopwatch import Stopwatch

Command = Callable[[ModelState], tuple[Fact, ...]]


class Seeds:
    """Plants seeds in a model and leads them through their lives.

    Every method returns a ``SurgeryResult``; a refusal is recorded and changes nothing.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def __getitem__(self, seed: str) -> Seed:
        """Return what the log knows of a seed.

        Raises:
            KeyError: if there is none.
        """
        return self._session.state.seeds[seed]

    def __iter__(self) -> Iterator[str]:
        return iter(self._session.state.seeds)

    def __len__(self) -> int:
        return len(self._session.state.seeds)

    def plant(self, seed: str, layer: str, *, cause: Cause | None = None) -> SurgeryResult:
        """Declare a dormant slot after a layer; it costs no module.

        Args:
            seed: id of the seed, a Python identifier; its module will have this name.
            layer: path of the layer.
            cause: who and why.
        """
        if not isinstance(layer, str):
            raise UsageError(f"a layer goes by its path, which is a string; got {layer!r}")
        return self._step(
            "plant_seed", seed, {"layer": layer}, cause, lambda state: seed_commands.plant(state, seed, layer)
        )

    def germinate(
        self,
        seed: str,
        kernel: str,
        *,
        evidence: Mapping[str, Number] | None = None,
        override: str | None = None,
        cause: Cause | None = None,
        **arguments: int,
    ) -> SurgeryResult:
        """Load a kernel into a dormant slot. It learns; the model's output stays the same, byte for byte.

        Args:
            seed: id of the seed.
            kernel: ``"noop"``, ``"norm"``, ``"conv_small"``, ``"bottleneck"``, ``"lora"``, ``"mlp"``, or one
                registered with ``esper_es.kernel``.
            evidence: numbers for the gate.
            override: why the gate is overridden.
            cause: who and why.
            **arguments: of the kernel, e.g. ``reduction=2``.

        Raises:
            UsageError: for an unknown kernel or argument.
        """
        asked = {"kernel": kernel, **arguments}
        request = self._request("germinate_seed", seed, asked, cause)
        planner = partial(
            plan_germinate,
            seed=seed,
            kernel=kernel,
            arguments=arguments,
            evidence=_numbers(evidence),
            override=override,
        )
        return perform(self._session, request, planner)

    def advance(
        self,
        seed: str,
        *,
        evidence: Mapping[str, Number] | None = None,
        schedule: AlphaSchedule | None = None,
        override: str | None = None,
        cause: Cause | None = None,
    ) -> SurgeryResult:
        """Take a seed to its next stage: from germinated to training, from training to blending.

        Args:
            seed: id of the seed.
            evidence: numbers for the gate.
            schedule: alpha ramp of a blending stage; linear over 5 epochs by default.
            override: why the gate is overridden.
            cause: who and why.
        """
        return self._advance("advance", seed, evidence, schedule, override, cause)

    def blend(self, seed: str, schedule: AlphaSchedule, *, cause: Cause | None = None) -> SurgeryResult:
        """Give a holding seed another alpha ramp, from the alpha it has."""
        return self._advance("blend", seed, None, schedule, None, cause)

    def _advance(
        self,
        trigger: str,
        seed: str,
        evidence: Mapping[str, Number] | None,
        schedule: AlphaSchedule | None,
        override: str | None,
        cause: Cause | None,
    ) -> SurgeryResult:
        command = partial(
            seed_commands.advance,
            seed=seed,
            trigger=trigger,
            evidence=_numbers(evidence),
            override=override,
            schedule=schedule,
        )
        asked = {"evidence": _numbers(evidence), "override": override}
        return self._step(f"{trigger}_seed", seed, asked, cause, command)

    def set_alpha(self, seed: str, alpha: Number, *, cause: Cause | None = None) -> SurgeryResult:
        """Set the weight of a blending seed's branch by hand; its ramp ends.

        Raises:
            UsageError: if alpha is not a number in [0, 1].
        """
        plain = plain_numbers({"alpha": alpha}, "set_alpha")
        command = partial(seed_commands.set_alpha, seed=seed, alpha=plain["alpha"])
        return self._step("set_alpha", seed, plain, cause, command)

    def cull(self, seed: str, *, reason: str = "", cause: Cause | None = None) -> SurgeryResult:
        """Remove a seed's module; its record stays, and after its embargo it is dormant again."""
        request = self._request("cull_seed", seed, {"reason": reason}, cause)
        return perform(self._session, request, partial(plan_cull, seed=seed, reason=reason))

    def fossilize(
        self,
        seed: str,
        *,
        evidence: Mapping[str, Number] | None = None,
        override: str | None = None,
        cause: Cause | None = None,
    ) -> SurgeryResult:
        """Turn a holding seed into an ordinary layer.

        Args:
            seed: id of the seed.
            evidence: numbers for the gate; the default one asks for ``contribution``, see ``muted``.
            override: why the gate is overridden.
            cause: who and why.
        """
        request = self._request("fossilize_seed", seed, {"evidence": _numbers(evidence)}, cause)
        planner = partial(plan_fossilize, seed=seed, evidence=_numbers(evidence), override=override)
        return perform(self._session, request, planner)

    @contextmanager
    def muted(self, seed: str) -> Iterator[None]:
        """Take a seed's branch out for a while, to measure what it contributes.

        The contribution is the metric with the seed minus the metric without.

        Raises:
            UsageError: if the seed holds no module.
        """
        known = self._session.state.seeds.get(seed)
        module = (
            None
            if known is None or known.path is None
            else self._session.live.module.get_submodule(known.path)
        )
        if not isinstance(module, SeedSlot):
            raise UsageError(f"seed {seed!r} holds no module that could be muted")
        with module.muted():
            yield

    def _request(
        self, operation: str, seed: str, arguments: Mapping[str, object], cause: Cause | None
    ) -> Request:
        json: dict[str, Json] = arguments_as_json(arguments)
        return Request(operation=operation, target=seed, arguments=json, cause=cause or Cause())

    def _step(
        self,
        operation: str,
        seed: str,
        arguments: Mapping[str, object],
        cause: Cause | None,
        command: Command,
    ) -> SurgeryResult:
        """Take a step that changes no structure."""
        request = self._request(operation, seed, arguments, cause)
        watch = Stopwatch()
        try:
            self._session.check_moment()
            facts: tuple[Fact, ...] = command(self._session.state)
        except Refused as refusal:
            return refuse(self._session, request, refusal, watch)
        notice(self._session)
        commit_edits(self._session, facts, request.cause)
        return SurgeryResult(
            success=True,
            operation=operation,
            version=self._session.state.version,
            details={"seed": seed, "stage": self._session.state.seeds[seed].stage},
            timings_ms={"total": watch.total()},
        )


def _numbers(evidence: Mapping[str, Number] | None) -> dict[str, float]:
    if not isinstance(evidence, (Mapping, NoneType)):
        raise UsageError(f"evidence is numbers by name, e.g. {{'contribution': 0.01}}; got {evidence!r}")
    return plain_numbers(evidence or {}, "evidence")
