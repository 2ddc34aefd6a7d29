"""What user code holds of a model goes on working through surgery: copies, keys, hooks, references."""

from __future__ import annotations

import copy
import pickle
import weakref

import pytest
import torch
from torch import nn

from esper_es import Engine

from .survivors import CASES, SUBJECTS, loss_of, operate, output_of

EVERY_SURGERY = pytest.mark.parametrize(("name", "surgery"), CASES)


def pickled(model: nn.Module) -> nn.Module:
    loaded: nn.Module = pickle.loads(pickle.dumps(model))
    return loaded


@EVERY_SURGERY
@pytest.mark.parametrize("copied", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])
def test_copies_made_after_surgery_compute_the_same(copied, name: str, surgery: str, engine: Engine) -> None:  # type: ignore[no-untyped-def]
    subject = SUBJECTS[name]
    run = subject.attach(engine, subject.build().eval())
    operate(subject, surgery, run)
    batch = subject.batch()
    assert torch.equal(output_of(copied(run.model), batch), output_of(run.model, batch))


@EVERY_SURGERY
def test_keys_of_untouched_layers_keep_their_names_and_values(
    name: str, surgery: str, engine: Engine
) -> None:
    subject = SUBJECTS[name]
    run = subject.attach(engine, subject.build())
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    operate(subject, surgery, run)
    after = run.model.state_dict()
    kept = [key for key in before if key in after]
    assert [key for key in after if key in before] == kept
    same_shape = [key for key in kept if after[key].shape == before[key].shape]
    assert all(torch.equal(after[key], before[key]) for key in same_shape)
    assert any(key.startswith(subject.untouched) for key in same_shape)


@EVERY_SURGERY
def test_forward_and_backward_hooks_fire_after_surgery(name: str, surgery: str, engine: Engine) -> None:
    subject = SUBJECTS[name]
    run = subject.attach(engine, subject.build())
    fired: set[tuple[str, str]] = set()
    for path, module in run.model.named_modules():
        module.register_forward_pre_hook(lambda *_, path=path: fired.add(("pre", path)) or None)
        module.register_forward_hook(lambda *_, path=path: fired.add(("forward", path)) or None)
        module.register_full_backward_hook(lambda *_, path=path: fired.add(("backward", path)) or None)
    for path, parameter in run.model.named_parameters():
        parameter.register_hook(lambda _, path=path: fired.add(("gradient", path)) or None)
    loss_of(run.model, subject.batch()).backward()
    expected = set(fired)
    operate(subject, surgery, run)
    there = {path for path, _ in run.model.named_modules()} | {
        path for path, _ in run.model.named_parameters()
    }
    untouched = {(kind, path) for kind, path in expected if path in there and not path.startswith("new")}
    if surgery == "removal":
        gone = "block1" if name == "cnn" else "model.layers.0.mlp"
        untouched = {(kind, path) for kind, path in untouched if not path.startswith(gone)}
    fired.clear()
    loss_of(run.model, subject.batch()).backward()
    assert untouched <= fired


@EVERY_SURGERY
def test_weak_references_to_what_stays_stay_alive(name: str, surgery: str, engine: Engine) -> None:
    subject = SUBJECTS[name]
    run = subject.attach(engine, subject.build())
    parameters = {key: weakref.ref(value) for key, value in run.model.named_parameters()}
    modules = {key: weakref.ref(value) for key, value in run.model.named_modules()}
    operate(subject, surgery, run)
    removed = {"cnn": "block1.", "llama": "model.layers.0.mlp"}[name] if surgery == "removal" else "-"
    for key, value in run.model.named_parameters():
        if key in parameters and not key.startswith(removed):
            assert parameters[key]() is value
    for key, module in run.model.named_modules():
        if key in modules and not (key + ".").startswith(removed):
            assert modules[key]() is module
