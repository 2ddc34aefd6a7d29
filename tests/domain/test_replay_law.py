"""Replay equals live: whatever happened, folding the stored rows gives the state that the run had."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from esper_es.domain.clock_commands import judge_watches, release_captures
from esper_es.domain.constraints import SurgeryConstraints
from esper_es.domain.errors import Refused
from esper_es.domain.evolution import evolved
from esper_es.domain.facts import StructuralFact
from esper_es.domain.fold import fold
from esper_es.domain.policies import CapturePolicy, WatchPolicy
from esper_es.ledger.codec import decode, encode

from .small_model import UNLIMITED, Log

seeds = st.sampled_from(["a", "b"])
scores = st.floats(0.1, 1.0)


class Run(RuleBasedStateMachine):
    """Does anything that a run can do, and allows it to be refused."""

    log: Log

    @initialize(limited=st.booleans(), watched=st.booleans(), keep_last=st.none() | st.integers(1, 3))
    def attach(self, limited: bool, watched: bool, keep_last: int | None) -> None:
        self.log = Log.of(
            constraints=SurgeryConstraints() if limited else UNLIMITED,
            watch=WatchPolicy(metric="score", epochs=2) if watched else None,
            capture=CapturePolicy(keep_last=keep_last),
        )
        self.log.capture("birth")

    @rule(capture=st.booleans())
    def add_layer(self, capture: bool) -> None:
        with suppress(Refused):
            self.log.add_layer(capture=capture)

    @rule()
    def remove_layer(self) -> None:
        with suppress(Refused):
            self.log.remove_layer("act")

    @rule(width=st.integers(1, 20))
    def set_width(self, width: int) -> None:
        with suppress(Refused):
            self.log.set_width(width)

    @rule()
    def skip(self) -> None:
        with suppress(Refused):
            self.log.skip()

    @rule(seed=seeds)
    def plant(self, seed: str) -> None:
        with suppress(Refused):
            self.log.plant(seed)

    @rule(seed=seeds)
    def germinate(self, seed: str) -> None:
        with suppress(Refused):
            self.log.germinate(seed)

    @rule(seed=seeds, trigger=st.sampled_from(["advance", "blend"]))
    def advance(self, seed: str, trigger: str) -> None:
        with suppress(Refused):
            self.log.advance(seed, trigger)

    @rule(seed=seeds, contribution=st.floats(-1, 1))
    def fossilize(self, seed: str, contribution: float) -> None:
        with suppress(Refused):
            self.log.fossilize(seed, contribution)

    @rule(seed=seeds)
    def cull(self, seed: str) -> None:
        with suppress(Refused):
            self.log.cull(seed)

    @rule(epochs=st.integers(1, 3), score=scores)
    def end_epochs(self, epochs: int, score: float) -> None:
        for _ in range(epochs):
            self.log.epoch(score=score)
            for verdict in judge_watches(self.log.state):
                self.log.record(verdict.closing)
                if verdict.back_to is not None:
                    self.log.rollback(verdict.back_to)
            self.log.record(*release_captures(self.log.state))

    @rule()
    def capture(self) -> None:
        self.log.capture()

    @rule(data=st.data())
    def rollback(self, data: st.DataObject) -> None:
        self.log.rollback(data.draw(st.sampled_from(sorted(self.log.state.restorable))))

    def teardown(self) -> None:
        """Whatever was done, the stored log leads to the same state."""
        rows = [(envelope, *encode(envelope)) for envelope in self.log.envelopes]
        read = [decode(e.originator_id, e.version, topic, state) for e, topic, state in rows]
        assert fold(None, read) == self.log.state

    @invariant()
    def the_edits_of_the_lineage_lead_from_birth_to_the_architecture(self) -> None:
        edits: list[Any] = []
        for version in self.log.state.lineage.edits_of:
            fact: Any = self.log.envelopes[version - 1].fact
            edits += fact.edits
        assert evolved(self.log.state.base.architecture, edits) == self.log.state.architecture

    @invariant()
    def every_restorable_version_has_its_capture_and_facts_whose_edits_are_known(self) -> None:
        for source in self.log.state.restorable.values():
            assert source.capture in self.log.state.captures
            for version in source.edits_of:
                assert isinstance(self.log.envelopes[version - 1].fact, StructuralFact)


TestRun = Run.TestCase
TestRun.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
