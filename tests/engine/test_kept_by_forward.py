"""Buffers outside the state dict that a forward pass makes, or sizes by what comes in, are no architecture."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from training import adam

from esper_es import Engine, blueprint, fingerprint

X = torch.randn(3, 5, 4)


class Kept(nn.Module):
    """Adds positions, which it computes when it first sees so many of them."""

    places: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.look_at(x.shape[1])
        assert self.places is not None
        y: Tensor = self.leave(torch.relu(self.enter(x)) + self.places[:, None])
        return y

    def look_at(self, count: int) -> None:
        raise NotImplementedError


class Resized(Kept):
    """Keeps a buffer of another size at first."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.zeros(1), persistent=False)

    def look_at(self, count: int) -> None:
        if self.places is None or len(self.places) != count:
            self.places = torch.arange(float(count))


class Filled(Resized):
    """Keeps nothing at first."""

    def __init__(self) -> None:
        super().__init__()
        self.places = None


class Registered(Resized):
    """Has no such buffer at first."""

    def __init__(self) -> None:
        super().__init__()
        del self.places

    def look_at(self, count: int) -> None:
        if "places" not in self._buffers:
            self.register_buffer("places", torch.arange(float(count)), persistent=False)


KINDS = pytest.mark.parametrize("kind", [Resized, Filled, Registered])


def attached(engine: Engine, kind: Callable[[], Kept], *, ran: bool = False) -> tuple[object, ...]:
    name = f"tests/kept/{kind.__name__}"
    blueprint(name)(kind)
    model = kind()
    if ran:
        model(X)
    return engine.attach(model, "model", example_inputs=(X,), optimizer=adam(model), blueprint=name), model


@KINDS
def test_a_model_that_ran_is_not_taken_for_one_that_was_changed(kind: type[Kept], engine: Engine) -> None:
    run, model = attached(engine, kind)
    model(X)
    assert run.surgeon.modify_layer_width(layer_name="enter", new_width=8).success


@KINDS
def test_a_model_that_ran_before_it_was_attached_is_one_that_its_blueprint_builds(
    kind: type[Kept], engine: Engine
) -> None:
    run, _ = attached(engine, kind, ran=True)
    assert run.surgeon.modify_layer_width(layer_name="enter", new_width=8).success


@KINDS
def test_a_replay_is_the_model_with_what_its_forward_kept(kind: type[Kept], engine: Engine) -> None:
    run, model = attached(engine, kind)
    model(X)
    run.surgeon.modify_layer_width(layer_name="enter", new_width=8)
    run.capture()
    assert fingerprint(engine.replay("model")) == run.fingerprint


@KINDS
def test_a_rollback_brings_back_what_was_kept_then(kind: type[Kept], engine: Engine) -> None:
    run, model = attached(engine, kind)
    birth, before = run.version, run.state_fingerprint
    model(X)
    run.surgeon.modify_layer_width(layer_name="enter", new_width=8)
    late, after = run.capture(), run.state_fingerprint
    assert run.rollback(birth).success
    assert run.state_fingerprint == before
    assert run.rollback(late).success
    assert run.state_fingerprint == after


@KINDS
def test_a_log_goes_on_with_a_new_model(kind: type[Kept], url: str) -> None:
    with Engine(url) as engine:
        run, model = attached(engine, kind)
        model(X)
        run.surgeon.modify_layer_width(layer_name="enter", new_width=8)
        run.capture()
        expected = run.fingerprint
    with Engine(url) as engine:
        run, _ = attached(engine, kind)
        assert run.fingerprint == expected


def test_a_buffer_of_the_state_dict_that_changes_its_shape_is_a_change(engine: Engine) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    run = engine.attach(model, "model", example_inputs=(X[:, 0],))
    model[1].running_mean = torch.zeros(7)
    with pytest.raises(Exception, match="changed outside of its run"):
        run.capture()
