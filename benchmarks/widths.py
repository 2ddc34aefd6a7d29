"""Changing the width of one layer: each step of it, against copying the bytes it touches and against peers."""

from __future__ import annotations

import copy
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from attrs import frozen
from torch import nn

from benchmarks import peers
from benchmarks.measure import (
    Row,
    Setting,
    Table,
    interleaved,
    median_ratio,
    milliseconds,
    one_thread,
    uncollected,
)
from benchmarks.models import square_mlp
from benchmarks.subjects import Subject, subjects
from esper_es import Engine, Run, SurgeryResult
from esper_es.domain.edits import Edit, ResizeTensor
from esper_es.domain.facts import LayerWidthModified
from esper_es.projections.live.apply import apply_edits
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.material import Planned, Recorded
from esper_es.projections.live.names import tensor_at

TRIED = ("plan", "prove", "apply")
ALL = ("plan", "validate", "prove", "apply")


def tables(setting: Setting) -> Iterator[Table]:
    """Measure."""
    found, skipped = subjects(setting.device)
    rounds = 2 if setting.quick else 5
    with one_thread():
        for subject in found:
            yield _table(subject, rounds, setting)
        yield from _against_gromo(rounds, skipped, setting)


def _table(subject: Subject, rounds: int, setting: Setting) -> Table:
    model = subject.build()
    optimizer = torch.optim.Adam(model.parameters())
    subject.train_step(model, optimizer)
    title = f"One layer wider: {subject.title}, Adam"
    with tempfile.TemporaryDirectory() as folder, Engine(f"sqlite:///{Path(folder) / 'bench.db'}") as engine:
        run = engine.attach(model, "bench", subject.example, optimizer, blueprint=subject.blueprint)
        first = run.surgeon.modify_layer_width(layer_name=subject.layer, new_width=subject.wide)
        if not first.success or first.undo_version is None:
            reason = f"{subject.layer!r} can't be widened: {first.error}"
            print(f"{title}: {reason}")
            return Table(title, [], rounds=rounds, skipped=[reason])
        bare = _bare(engine, run, subject, max(rounds, 7), first.undo_version, setting)
        growth = _surgeries(run, subject, subject.wide, rounds)
        shrinking = [_operated(run, subject, subject.narrow) for _ in range(rounds)]
        copying = milliseconds(lambda: copy.deepcopy(model), rounds, clock=setting.wall)
    rows = [*bare, Row("copy.deepcopy(model)", copying), *_growth_rows(subject, growth, copying)]
    narrowing, skipped = _narrowing_rows(subject, shrinking, rounds, setting)
    return Table(title, [*rows, *narrowing], rounds=rounds, skipped=skipped, device=setting.device)


def _bare(engine: Engine, run: Run, subject: Subject, rounds: int, undo: int, setting: Setting) -> list[Row]:
    """Apply and undo the recorded edits on the live objects, in turn with copying what they touch.

    Once as a trainer does it, each after a training step, and once with nothing in between, which is what a small
    change costs when everything lies in the caches of the processor.
    """
    fact = next(e.fact for e in reversed(engine.history("bench")) if isinstance(e.fact, LayerWidthModified))
    live = run.session.live
    floor = [tensor.detach().clone() for tensor in _touched(run, fact.edits)]
    run.rollback(undo)
    material = Recorded(Planned(_fills(run, fact.edits)))
    journal = Journal()

    def trained() -> None:
        assert live.optimizer is not None
        subject.train_step(live.module, live.optimizer)

    def timed(before: Callable[[], object]) -> list[list[float]]:
        return interleaved(
            [
                lambda: [tensor.clone() for tensor in floor],
                lambda: apply_edits(live, fact.edits, material, journal),
                journal.undo,
            ],
            rounds,
            clock=setting.wall,
            before=before,
            in_order=True,
        )

    copying, applying, undoing = timed(trained)
    warm_copying, warm_applying, _ = timed(lambda: None)
    megabytes = sum(tensor.nbytes for tensor in floor) / 1e6
    return [
        Row(f"copying the {megabytes:.1f} MB that it touches", statistics.median(copying)),
        _against(copying, "apply", applying, "module and Adam, after a training step; goal: 3"),
        _against(copying, "undo, by the journal", undoing, "after a training step"),
        Row("copying, nothing in between", statistics.median(warm_copying)),
        _against(warm_copying, "apply, nothing in between", warm_applying),
    ]


def _against(copying: Sequence[float], what: str, times: Sequence[float], note: str = "") -> Row:
    return Row(what, statistics.median(times), "ms", "copying", median_ratio(times, copying), note)


def _touched(run: Run, edits: Sequence[Edit]) -> list[torch.Tensor]:
    """Return the resized tensors and their optimizer state."""
    live = run.session.live
    names = dict.fromkeys(edit.tensor for edit in edits if isinstance(edit, ResizeTensor))
    tensors = [tensor_at(live.module, name) for name in names]
    state = {} if live.optimizer is None else live.optimizer.state
    moments = [
        v for t in tensors for v in state.get(t, {}).values() if isinstance(v, torch.Tensor) and v.ndim
    ]
    return [*tensors, *moments]


def _fills(run: Run, edits: Sequence[Edit]) -> dict[str, torch.Tensor]:
    fills = [edit.fill for edit in edits if isinstance(edit, ResizeTensor) and edit.fill is not None]
    return {fill.digest: run.session.vault.get(fill.digest) for fill in fills if fill.digest is not None}


@frozen
class Operated:
    """A surgery and its rollback."""

    result: SurgeryResult
    rollback: SurgeryResult


@frozen
class Surgeries:
    """One surgery done over and over: with nothing known of the structure, and with the trace of the last one."""

    fresh: list[Operated]
    known: list[Operated]


def _surgeries(run: Run, subject: Subject, width: int, rounds: int) -> Surgeries:
    done = Surgeries([], [])
    for _ in range(rounds):
        run.session.memory.forget()
        done.fresh.append(_operated(run, subject, width))
        done.known.append(_operated(run, subject, width))
    return done


def _operated(run: Run, subject: Subject, width: int) -> Operated:
    with uncollected():
        result = run.surgeon.modify_layer_width(layer_name=subject.layer, new_width=width)
    if result.undo_version is None:
        raise RuntimeError(f"{subject.title}: {result.error}")
    return Operated(result, run.rollback(result.undo_version))


def _median(done: Sequence[Operated], phases: Sequence[str]) -> float:
    """Return the median of the time of some phases together."""
    return statistics.median(sum(each.result.timings_ms[phase] for phase in phases) for each in done)


def _growth_rows(subject: Subject, growth: Surgeries, copying: float) -> list[Row]:
    known = growth.known
    total = _median(known, ("total",))
    capture = _median(known, ("capture",))
    tried = _median(known, TRIED)
    goal = "" if subject.goal is None else f"goal: {subject.goal:.0f} ms"
    rows = [Row(phase, _median(known, (phase,))) for phase in ("plan", "validate", "prove")]
    rows.append(Row("plan + prove + apply", tried, "ms", "deepcopy", tried / copying, goal))
    checked = _median(known, ALL)
    rows.append(Row("plan + validate + prove + apply", checked, "ms", "deepcopy", checked / copying))
    fresh = _median(growth.fresh, ALL)
    note = "the structure was never traced before"
    rows.append(Row("the same, the first time", fresh, "ms", "deepcopy", fresh / copying, note))
    rows.append(
        Row(
            "capture",
            capture,
            "ms",
            "deepcopy",
            capture / copying,
            f"{capture / total:.0%} of all; by policy",
        )
    )
    rows.append(Row("commit", _median(known, ("commit",))))
    rows.append(Row("all of it", total, "ms", "deepcopy", total / copying))
    back = statistics.median(each.rollback.timings_ms["total"] for each in known)
    rows.append(Row("rollback", back, "ms", "deepcopy", back / copying, "reads and verifies every byte"))
    return rows


def _narrowing_rows(
    subject: Subject, shrinking: Sequence[Operated], rounds: int, setting: Setting
) -> tuple[list[Row], list[str]]:
    ours = _median(shrinking, ALL)
    rows = [Row(f"narrower ({subject.narrow}): plan + validate + prove + apply", ours)]
    lacking = peers.missing(peers.TORCH_PRUNING)
    if lacking is not None:
        return rows, [lacking]
    try:
        theirs = _pruning(subject, rounds, setting)
    except ValueError as error:
        return rows, [f"Torch-Pruning: {error}"]
    note = "neither proof nor optimizer"
    rows.append(Row("Torch-Pruning: build and prune the same", theirs, note=note))
    rows.append(Row("narrower", ours, baseline="Torch-Pruning", ratio=ours / theirs))
    return rows, []


def _pruning(subject: Subject, rounds: int, setting: Setting) -> float:
    """Return the time of Torch-Pruning's graph and pruning, each time on a new copy."""
    whole = subject.build()
    count = max(1, whole.get_submodule(subject.layer).get_parameter("weight").shape[0] - subject.narrow)
    copies: list[nn.Module] = []

    def prune_one() -> None:
        model = copies.pop()
        peers.prune(peers.dependency_graph(subject, model), model.get_submodule(subject.layer), count)

    times = interleaved(
        [prune_one], rounds, clock=setting.wall, before=lambda: copies.append(copy.deepcopy(whole))
    )
    return statistics.median(times[0])


def _against_gromo(rounds: int, skipped: Sequence[str], setting: Setting) -> list[Table]:
    """Grow one layer of an MLP of six layers; gromo grows models made of its own layers only."""
    title = "One layer wider: MLP of 6 layers of width 512, SGD"
    lacking = peers.missing(peers.GROMO)
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), *square_mlp(5, 512)).to(setting.device)
    example = (torch.randn(4, 64).to(setting.device),)
    with tempfile.TemporaryDirectory() as folder, Engine(f"sqlite:///{Path(folder) / 'bench.db'}") as engine:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run = engine.attach(model, "bench", example, optimizer)
        subject = Subject(title, lambda: model, example, "2", 640, 384)
        growth = _surgeries(run, subject, 640, 3 * rounds)
    ours, bare = _median(growth.known, ALL), _median(growth.known, ("apply",))
    rows = [
        Row("plan + validate + prove + apply", ours),
        Row("apply", bare),
    ]
    if lacking is None:
        theirs = milliseconds(_growing(3 * rounds, setting), 3 * rounds, clock=setting.wall)
        rows.append(
            Row("gromo: extend and apply", theirs, note="its own layers; no proof, no optimizer, no way back")
        )
        rows.append(Row("plan + validate + prove + apply", ours, "ms", "gromo", ours / theirs))
        rows.append(Row("apply", bare, "ms", "gromo", bare / theirs))
    reasons = [*skipped, *([lacking] if lacking else [])]
    for reason in reasons:
        print(f"skipped: {reason}")
    return [Table(title, rows, rounds=3 * rounds, skipped=reasons, device=setting.device)]


def _growing(rounds: int, setting: Setting) -> Callable[[], None]:
    models = [peers.growing_mlp(6, 512).to(setting.device) for _ in range(rounds + 1)]
    return lambda: peers.grow(models.pop(), 2, 128)
