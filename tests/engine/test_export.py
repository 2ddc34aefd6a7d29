"""Plain copies of a live model: own classes, the same function, and no need of esper_es where that can be."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from models import CONV_NET, NESTED_CNN, NESTED_MLP
from torch import nn
from training import adam, attached, gradients, train_run

from esper_es import AlphaSchedule, Engine, Run, UsageError, blueprint

PLAIN_MODULE = '''
import torch
from torch import nn


class Plain(nn.Module):
    """A forward of the user's own."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.middle = nn.Linear(8, 8)
        self.leave = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.enter(x))
        return self.leave(torch.relu(self.middle(x)))
'''

LOADER = """
import sys
sys.modules["esper_es"] = None  # as if it were not installed
import torch
torch.set_num_threads(1)  # as the process that saved: sums of other splits differ in their last bits
model, x, expected = torch.load(sys.argv[1], weights_only=False)
assert torch.equal(model(x), expected)
assert list(model.state_dict()) == sys.argv[2].split()
model.load_state_dict(model.state_dict())
"""


def blended_seed(run: Run, layer: str, kernel: str) -> None:
    run.seeds.plant("seed", layer)
    run.seeds.germinate("seed", kernel)
    run.seeds.advance("seed")
    run.epoch_end()
    run.seeds.advance("seed", schedule=AlphaSchedule(epochs=4))
    run.epoch_end()


def sequence_of_torchs_layers(engine: Engine) -> Run:
    """Every operation on a model that is nothing but nested ``nn.Sequential``."""
    run = attached(engine, NESTED_CNN, adam)
    surgeon = run.surgeon
    assert surgeon.modify_layer_width(layer_name="0", new_width=8).success
    assert surgeon.add_layer(after_layer="2", new_layer=nn.Conv2d(8, 8, 1), layer_name="new").success
    assert surgeon.add_layer(
        after_layer="3.0", new_layer=nn.Conv2d(4, 4, 1), layer_name="extra", connection_type="residual"
    ).success
    assert surgeon.add_skip_connection(from_layer="0", to_layer="2").success
    assert surgeon.add_skip_connection(from_layer="3.0", to_layer="3.2").success
    blended_seed(run, "3.1", "conv_small")
    train_run(run, NESTED_CNN)
    return run


def sequence_with_a_projected_skip(engine: Engine) -> Run:
    run = attached(engine, NESTED_MLP, adam)
    result = run.surgeon.add_skip_connection(from_layer="0", to_layer="3")
    assert result.details["projection"] is not None
    train_run(run, NESTED_MLP, 2)
    return run


def forward_of_the_users_own(engine: Engine) -> Run:
    """Insertions and a blending seed under a custom forward."""
    run = attached(engine, CONV_NET, adam)
    conv = nn.Conv2d(6, 6, 1)
    assert run.surgeon.add_layer(after_layer="conv1", new_layer=conv, layer_name="new").success
    assert run.surgeon.add_layer(
        after_layer="conv1", new_layer=conv, layer_name="extra", connection_type="residual"
    ).success
    blended_seed(run, "conv2", "conv_small")
    train_run(run, CONV_NET)
    return run


def skip_under_a_forward_of_the_users_own(engine: Engine) -> Run:
    run = forward_of_the_users_own(engine)
    assert run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3").success
    assert run.surgeon.remove_layer(layer_name="conv2").success
    train_run(run, CONV_NET)
    return run


HISTORIES = {
    "sequence": (sequence_of_torchs_layers, NESTED_CNN),
    "projected": (sequence_with_a_projected_skip, NESTED_MLP),
    "custom": (forward_of_the_users_own, CONV_NET),
    "skip": (skip_under_a_forward_of_the_users_own, CONV_NET),
}

EVERY_HISTORY = pytest.mark.parametrize("history", HISTORIES)


@EVERY_HISTORY
@pytest.mark.parametrize("training", [True, False])
def test_an_exported_model_computes_the_same_bit_for_bit(
    training: bool, history: str, engine: Engine
) -> None:
    make, zoolet = HISTORIES[history]
    run = make(engine)
    run.model.train(training)
    x = zoolet.batch()
    plain = run.export()
    assert torch.equal(plain(x), run.model(x))


@EVERY_HISTORY
def test_an_exported_model_gets_the_same_gradients(history: str, engine: Engine) -> None:
    make, zoolet = HISTORIES[history]
    run = make(engine)
    x = zoolet.batch()
    plain = run.export()
    run.model.zero_grad()
    gradients(run.model, x)
    gradients(plain, x)
    expected = {name: parameter.grad for name, parameter in run.model.named_parameters()}
    found = {name: parameter.grad for name, parameter in plain.named_parameters()}
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@EVERY_HISTORY
def test_no_class_of_an_exported_model_is_swapped(history: str, engine: Engine) -> None:
    plain = HISTORIES[history][0](engine).export()
    assert not [type(m) for m in plain.modules() if hasattr(type(m), "_esper_original")]
    assert not [m for m in plain.modules() if any(key.startswith("_esper") for key in m.__dict__)]


@EVERY_HISTORY
def test_state_dicts_of_the_live_and_the_exported_model_are_exchangeable(
    history: str, engine: Engine
) -> None:
    make, zoolet = HISTORIES[history]
    run = make(engine)
    plain = run.export()
    train_run(run, zoolet)
    plain.load_state_dict(run.model.state_dict())
    x = zoolet.batch()
    assert torch.equal(plain.eval()(x), run.model.eval()(x))


def pickled(model: nn.Module) -> Any:
    return pickle.loads(pickle.dumps(model))


def saved(model: nn.Module) -> Any:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@EVERY_HISTORY
@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved], ids=["deepcopy", "pickle", "save"])
def test_copies_of_an_exported_model_compute_the_same_with_tensors_of_their_own(
    copied: Any, history: str, engine: Engine
) -> None:
    make, zoolet = HISTORIES[history]
    plain = make(engine).export().eval()
    x = zoolet.batch()
    expected = plain(x)
    other = copied(plain)
    assert torch.equal(other(x), expected)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    assert torch.equal(plain(x), expected)
    assert not torch.equal(other(x), expected)


@EVERY_HISTORY
def test_the_live_model_is_only_read(history: str, engine: Engine) -> None:
    run = HISTORIES[history][0](engine)
    before, version = run.state_fingerprint, run.version
    run.export()
    assert (run.state_fingerprint, run.version) == (before, version)


@EVERY_HISTORY
def test_an_exported_model_compiles_without_graph_breaks(history: str, engine: Engine) -> None:
    torch._dynamo.reset()
    make, zoolet = HISTORIES[history]
    plain = make(engine).export().eval()
    x = zoolet.batch()
    assert torch.equal(torch.compile(plain, fullgraph=True, backend="eager")(x), plain(x))


def loaded_elsewhere(plain: nn.Module, x: torch.Tensor, keys: list[str], folder: Path) -> None:
    """Load a saved model in a process that has no esper_es, and compare."""
    path = folder / "model.pt"
    torch.save((plain, x, plain(x)), path)
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(path), " ".join(keys)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_an_exported_sequence_runs_where_esper_es_is_not_installed(engine: Engine, tmp_path: Path) -> None:
    run = sequence_of_torchs_layers(engine)
    plain = run.export(standalone=True).eval()
    loaded_elsewhere(plain, NESTED_CNN.batch(), list(run.model.state_dict()), tmp_path)


def test_a_model_of_the_users_own_class_runs_where_only_that_class_is(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain_model.py").write_text(PLAIN_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import plain_model  # type: ignore[import-not-found]

    blueprint("tests/plain")(plain_model.Plain)
    x = torch.randn(4, 6)
    run = engine.attach(plain_model.Plain(), "plain", (x,), blueprint="tests/plain")
    linear = nn.Linear(8, 8)
    assert run.surgeon.add_layer(after_layer="enter", new_layer=linear, layer_name="a").success
    assert run.surgeon.add_layer(
        after_layer="enter", new_layer=linear, layer_name="b", connection_type="residual"
    ).success
    assert run.surgeon.remove_layer(layer_name="middle").success
    assert run.surgeon.modify_layer_width(layer_name="a", new_width=12).success
    plain = run.export(standalone=True).eval()
    loaded_elsewhere(plain, x, list(run.model.state_dict()), tmp_path)


def test_a_model_of_transformers_runs_where_only_transformers_is(engine: Engine, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=40, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    ids = torch.randint(0, 40, (2, 8))
    run = engine.attach(transformers.GPT2Model(config).eval(), "gpt2", {"input_ids": ids, "use_cache": False})
    mlp = nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 16))
    assert run.surgeon.add_layer(
        after_layer="h.1.mlp", new_layer=mlp, layer_name="more", connection_type="residual"
    ).success
    plain = run.export(standalone=True)
    path = tmp_path / "model.pt"
    torch.save((plain, ids, plain(ids).last_hidden_state), path)
    loader = LOADER.replace("model(x)", "model(x).last_hidden_state")
    keys = " ".join(run.model.state_dict())
    done = subprocess.run(
        [sys.executable, "-c", loader, str(path), keys],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_what_can_not_stand_alone_is_refused_with_what_it_needs(engine: Engine) -> None:
    run = skip_under_a_forward_of_the_users_own(engine)
    with pytest.raises(
        UsageError, match=r"the root, 'conv1', 'conv2', 'conv3' can't be exported without classes of esper_es"
    ):
        run.export(standalone=True)


def test_a_seed_that_does_not_take_part_yet_is_left_out(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    run.seeds.plant("seed", "1")
    run.seeds.germinate("seed", "lora")
    plain = run.export(standalone=True)
    assert not [key for key in plain.state_dict() if key.startswith("seed")]
    x = NESTED_MLP.batch()
    assert torch.equal(plain(x), run.model(x))


def test_hooks_of_the_user_are_left_out(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    run.model.get_submodule("conv1").register_forward_hook(lambda *_: None)
    assert not run.export().get_submodule("conv1")._forward_hooks


def test_a_residual_inside_a_residual_is_exported(engine: Engine) -> None:
    x = torch.randn(4, 6)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    run = engine.attach(model, "nested", (x,))
    for after, name in (("0", "outer"), ("outer.body", "inner")):
        assert run.surgeon.add_layer(
            after_layer=after, new_layer=nn.Linear(8, 8), layer_name=name, connection_type="residual"
        ).success
    plain = pickle.loads(pickle.dumps(run.export(standalone=True)))
    assert torch.equal(plain(x), model(x))


class Inner(nn.Module):
    """A sequence inside a forward of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ran: torch.Tensor = self.inner(x)
        return ran


class Crossed(nn.Module):
    """A layer of two arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.cross = nn.Bilinear(6, 6, 4)
        self.leave = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left: torch.Tensor = self.leave(self.cross(x, x))
        return left


blueprint("tests/inner")(Inner)
blueprint("tests/crossed")(Crossed)


def test_a_concatenating_skip_inside_an_inner_sequence_is_exported(engine: Engine) -> None:
    x = torch.randn(4, 6)
    run = engine.attach(Inner(), "inner", (x,), blueprint="tests/inner")
    result = run.surgeon.add_skip_connection(
        from_layer="inner.0", to_layer="inner.2", connection_type="concat"
    )
    assert result.success, result.error
    assert torch.equal(run.export()(x), run.model.eval()(x))


def test_a_layer_behind_the_bridge_over_a_layer_of_two_arguments_is_exported(engine: Engine) -> None:
    x = torch.randn(9, 6)
    run = engine.attach(Crossed(), "crossed", (x,), blueprint="tests/crossed")
    assert run.surgeon.remove_layer(layer_name="cross", bridge_strategy="learned").success
    added = run.surgeon.add_layer(
        after_layer="cross.bridge", new_layer=nn.LayerNorm(4), layer_name="new", connection_type="residual"
    )
    assert added.success, added.error
    assert torch.equal(run.export()(x), run.model.eval()(x))
