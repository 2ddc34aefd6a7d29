"""Every surgery on every hostile model through the public API: right, or refused by name with the run untouched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine.photograph import differences, photograph
from torch import Tensor
from training import adam

from esper_es import Engine, Run, SurgeryResult, fingerprint

from .hostile_models import HOSTILE

Operation = Callable[[Run, str], SurgeryResult]


def width_of(run: Run, layer: str) -> int:
    return int(getattr(run.model.get_submodule(layer), "out_features", 8))


def insert(run: Run, layer: str) -> SurgeryResult:
    width = width_of(run, layer)
    spec = {"type": "linear", "in_features": width, "out_features": width}
    return run.surgeon.add_layer(after_layer=layer, new_layer=spec, layer_name="fresh")


def insert_beside(run: Run, layer: str) -> SurgeryResult:
    width = width_of(run, layer)
    spec = {"type": "linear", "in_features": width, "out_features": width}
    return run.surgeon.add_layer(
        after_layer=layer, new_layer=spec, layer_name="fresh", connection_type="residual"
    )


def grow_a_seed(run: Run, layer: str) -> SurgeryResult:
    return run.seeds.germinate("planted", "mlp")


def skip(run: Run, layer: str) -> SurgeryResult:
    first = "layers.enter" if layer.startswith("layers") else "enter"
    return run.surgeon.add_skip_connection(from_layer=first, to_layer=layer, connection_type="concat")


def remove(run: Run, layer: str) -> SurgeryResult:
    return run.surgeon.remove_layer(layer_name=layer, bridge_strategy="learned")


def widen(run: Run, layer: str) -> SurgeryResult:
    return run.surgeon.modify_layer_width(
        layer_name=layer, new_width=2 * width_of(run, layer), initialization="function_preserving"
    )


def narrow(run: Run, layer: str) -> SurgeryResult:
    return run.surgeon.modify_layer_width(layer_name=layer, new_width=max(width_of(run, layer) // 2, 1))


ADDITIONS: tuple[Operation, ...] = (insert, insert_beside, grow_a_seed, skip)
WITH_ANOTHER_FUNCTION: tuple[Operation, ...] = (remove, narrow)


def cases(*operations: Operation) -> pytest.MarkDecorator:
    """Try operations on all layers of all hostile models; all but one layer of each are slow."""
    tried = [
        pytest.param(
            name,
            layer,
            operation,
            id=f"{name}-{layer}-{operation.__name__}",
            marks=[pytest.mark.slow] * (number != min(1, len(hostile.layers) - 1)),
        )
        for name, hostile in HOSTILE.items()
        for number, layer in enumerate(hostile.layers)
        for operation in operations
    ]
    return pytest.mark.parametrize(("name", "layer", "operation"), tried)


def hostile_run(engine: Engine, name: str) -> Run:
    """Attach a hostile model and train it."""
    module = HOSTILE[name].build()
    run = engine.attach(
        module,
        name="model",
        example_inputs=(torch.randn(4, 6),),
        optimizer=adam(module),
        blueprint=f"tests/hostile/{name}",
    )
    train(run)
    return run


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for item in items for tensor in tensors(item)]


def outputs(run: Run, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [tensor.clone() for tensor in tensors(run.model.eval()(x))]


def train(run: Run, steps: int = 2) -> None:
    optimizer = run.session.live.optimizer
    assert optimizer is not None
    for _ in range(steps):
        optimizer.zero_grad()
        made = tensors(run.model.train()(torch.randn(4, 6)))
        torch.autograd.backward(torch.stack([tensor.square().mean() for tensor in made]).sum())
        optimizer.step()
    optimizer.zero_grad()


def assert_refused_or_alive(
    engine: Engine, run: Run, layer: str, operation: Operation, check: Callable[[], None]
) -> None:
    """Do it; a refusal has a name and leaves everything as it was, a success trains, replays and rolls back."""
    before, state = photograph(run), run.state_fingerprint
    result = operation(run, layer)
    if not result.success:
        assert differences(before, photograph(run)) == []
        assert result.check
        assert result.error
        return
    check()
    train(run)
    run.capture()
    assert fingerprint(engine.replay("model")) == run.fingerprint
    assert result.undo_version is not None
    assert run.rollback(result.undo_version).success
    assert run.state_fingerprint == state


@cases(*ADDITIONS)
def test_what_is_added_keeps_the_function_bit_by_bit(
    name: str, layer: str, operation: Operation, engine: Engine
) -> None:
    run = hostile_run(engine, name)
    run.seeds.plant("planted", layer)
    x = torch.randn(4, 6)
    before = outputs(run, x)

    def check() -> None:
        assert all(torch.equal(a, b) for a, b in zip(outputs(run, x), before, strict=True))

    assert_refused_or_alive(engine, run, layer, operation, check)


@cases(widen)
def test_what_is_widened_keeps_the_function(
    name: str, layer: str, operation: Operation, engine: Engine
) -> None:
    run = hostile_run(engine, name)
    x = torch.randn(4, 6)
    before = outputs(run, x)

    def check() -> None:
        for after, expected in zip(outputs(run, x), before, strict=True):
            torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-5)

    assert_refused_or_alive(engine, run, layer, operation, check)


@cases(*WITH_ANOTHER_FUNCTION)
def test_what_is_taken_away_leaves_a_model_that_lives_on(
    name: str, layer: str, operation: Operation, engine: Engine
) -> None:
    run = hostile_run(engine, name)
    x = torch.randn(4, 6)
    before = outputs(run, x)

    def check() -> None:
        assert [tensor.shape for tensor in outputs(run, x)] == [tensor.shape for tensor in before]

    assert_refused_or_alive(engine, run, layer, operation, check)


@pytest.mark.parametrize(
    ("name", "layer", "operation", "check"),
    [
        ("by-weight", "enter", insert, "not_executed"),
        ("by-weight", "enter", skip, "not_executed"),
        ("by-weight", "middle", remove, "not_executed"),
        ("replaced-forward", "middle", insert, "replaced_forward"),
        ("replaced-forward", "middle", grow_a_seed, "replaced_forward"),
        ("data-dependent", "seldom", insert, "not_executed"),
        ("data-dependent", "enter", widen, "not_executed"),
        ("two-shapes", "shared", skip, "called_often"),
        ("nested-dicts", "inner", remove, "side_output"),
        ("parameter-lists", "weights", insert, "not_executed"),
        ("in-place", "enter", widen, "pinned"),
        ("orthogonal", "middle", narrow, "pinned"),
        ("views", "middle", narrow, "pinned"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_refused_by_name(
    name: str, layer: str, operation: Operation, check: str, engine: Engine
) -> None:
    run = hostile_run(engine, name)
    run.seeds.plant("planted", layer)
    assert operation(run, layer).check == check


@pytest.mark.parametrize(
    ("name", "layer", "operation"),
    [
        ("in-place", "middle", widen), ("custom-function", "enter", insert), ("weight-norm", "middle", widen),
        ("spectral-norm", "middle", insert_beside), ("spectral-norm-hook", "middle", insert_beside),
        ("spectral-norm", "middle", narrow), ("spectral-norm-hook", "middle", narrow),
        ("spectral-norm", "middle", widen), ("spectral-norm-hook", "middle", widen),
        ("parameter-lists", "enter", widen), ("two-shapes", "shared", widen), ("two-shapes", "shared", insert),
        ("nested-dicts", "inner", insert), ("nested-dicts", "inner", skip), ("nested-dicts", "inner.layer", widen),
        ("dynamic-attributes", "layers.middle", insert), ("every-attribute", "enter", insert),
        ("data-dependent", "often", insert_beside), ("functional-call", "inner", widen),
        ("by-weight", "middle", widen), ("einsum", "enter", insert), ("views", "enter", insert),
        ("as-strided", "enter", grow_a_seed),
    ],
)  # fmt: skip
def test_what_can_be_right_is_done(name: str, layer: str, operation: Operation, engine: Engine) -> None:
    run = hostile_run(engine, name)
    run.seeds.plant("planted", layer)
    result = operation(run, layer)
    assert result.success, result.error
