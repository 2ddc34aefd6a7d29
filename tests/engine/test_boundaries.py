"""Changes asked for in the middle of a training step: refused, or deferred to its end."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from models import CONV_NET, NESTED_MLP
from torch import nn
from training import adam, attached, gradients, optimizer_of, train_run

from esper_es import Engine, Run, SurgeryResult, UsageError
from esper_es.domain.facts import LayerWidthModified, SurgeryRefused


@pytest.fixture
def run(engine: Engine) -> Run:
    return attached(engine, NESTED_MLP, adam)


def widened(run: Run, width: int = 12) -> SurgeryResult:
    return run.surgeon.modify_layer_width(layer_name="0", new_width=width)


@pytest.mark.parametrize("path", ["", "1", "2.0"])
def test_a_surgery_inside_a_forward_pass_is_refused(path: str, run: Run) -> None:
    results: list[SurgeryResult] = []
    layer = run.model.get_submodule(path)
    layer.register_forward_hook(lambda *_: results.append(widened(run)))
    run.model(NESTED_MLP.batch())
    assert [result.check for result in results] == ["moment"]
    assert "forward pass" in (results[0].error or "")


def test_a_surgery_during_another_threads_forward_pass_is_refused(run: Run) -> None:
    inside, over = threading.Event(), threading.Event()

    def linger(*_: object) -> None:
        inside.set()
        over.wait(10)

    run.model.get_submodule("1").register_forward_hook(linger)
    x = NESTED_MLP.batch()
    thread = threading.Thread(target=run.model, args=(x,))
    thread.start()
    inside.wait(10)
    result = widened(run)
    over.set()
    thread.join()
    assert result.check == "moment"


def test_a_forward_pass_of_another_model_is_no_hindrance(run: Run) -> None:
    results: list[SurgeryResult] = []
    other = nn.ReLU()
    other.register_forward_hook(lambda *_: results.append(widened(run)))
    other(torch.ones(1))
    assert results[0].success


def test_a_surgery_between_forward_and_backward_is_refused_and_backward_still_runs(run: Run) -> None:
    loss = run.model(NESTED_MLP.batch()).square().mean()
    assert widened(run).check == "moment"
    loss.backward()


def test_the_moment_is_legal_again_once_the_graph_is_gone(run: Run) -> None:
    loss = run.model(NESTED_MLP.batch()).square().mean()
    assert not widened(run).success
    del loss
    assert widened(run).success


def test_outputs_of_a_model_in_evaluation_mode_may_be_held(run: Run) -> None:
    before = run.model.eval()(NESTED_MLP.batch())
    assert widened(run).success
    assert before.requires_grad


def test_a_graph_of_another_model_is_no_hindrance(run: Run) -> None:
    other = nn.Linear(6, 3)(NESTED_MLP.batch())
    assert widened(run).success
    assert other.requires_grad


def test_a_loss_from_before_the_last_step_may_be_held_while_other_graphs_are_made(run: Run) -> None:
    loss = gradients(run.model, NESTED_MLP.batch())
    optimizer_of(run).step()
    run.model(NESTED_MLP.batch())
    assert widened(run).success
    assert loss.requires_grad


def test_memory_is_not_searched_for_graphs_when_none_was_made_since_the_step(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = gradients(run.model, NESTED_MLP.batch())
    optimizer_of(run).step()
    monkeypatch.setattr("gc.get_objects", lambda: pytest.fail("searched"))
    assert run.surgeon.add_layer(after_layer="0", new_layer=nn.ReLU(), layer_name="new").success
    assert run.surgeon.add_layer(after_layer="1", new_layer=nn.ReLU(), layer_name="newer").success
    assert loss.requires_grad


def test_a_graph_made_after_a_check_is_seen_by_the_next(run: Run) -> None:
    assert widened(run).success
    held = run.model(NESTED_MLP.batch())
    assert widened(run, 14).check == "moment"
    assert widened(run, 14).check == "moment"
    assert held.requires_grad


def test_a_surgery_in_the_middle_of_gradient_accumulation_is_refused(run: Run) -> None:
    optimizer_of(run).zero_grad()
    gradients(run.model, NESTED_MLP.batch())
    result = widened(run)
    assert (result.check, "gathered since the last optimizer step" in (result.error or "")) == (
        "moment",
        True,
    )


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_that_are_given_up_are_no_hindrance(set_to_none: bool, run: Run) -> None:
    gradients(run.model, NESTED_MLP.batch())
    optimizer_of(run).zero_grad(set_to_none=set_to_none)
    assert widened(run).success


def test_gradients_left_over_from_the_last_step_are_no_hindrance(run: Run) -> None:
    train_run(run, NESTED_MLP)
    assert run.model.get_parameter("0.weight").grad is not None
    assert widened(run).success
    assert widened(run, 14).success


def test_gradients_added_to_those_of_the_last_step_are_a_hindrance(run: Run) -> None:
    train_run(run, NESTED_MLP)
    gradients(run.model, NESTED_MLP.batch())
    assert widened(run).check == "moment"


def test_a_rollback_gives_up_gathered_gradients(run: Run) -> None:
    gradients(run.model, NESTED_MLP.batch())
    assert run.rollback(2).success
    assert run.model.get_parameter("0.weight").grad is None


def test_without_an_optimizer_step_end_says_where_steps_end(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    run.step_end()
    gradients(run.model, NESTED_MLP.batch())
    assert widened(run).check == "moment"
    run.step_end()
    assert widened(run).success


def in_backward(run: Run, width: int = 12) -> Any:
    """Ask for a surgery while backward runs; return the handle."""
    handles: list[Any] = []
    weight: Any = run.model.get_parameter("3.weight")
    hook = weight.register_hook(
        lambda _: handles.append(
            run.at_boundary(run.surgeon.modify_layer_width, layer_name="0", new_width=width)
        )
    )
    gradients(run.model, NESTED_MLP.batch())
    hook.remove()
    return handles[0]


def test_a_deferred_surgery_happens_when_the_optimizer_has_stepped(run: Run) -> None:
    deferred = in_backward(run)
    assert not deferred.done
    optimizer_of(run).step()
    assert deferred.result.success
    train_run(run, NESTED_MLP, 2)


def test_a_deferred_surgery_is_in_the_log_only_as_what_happened(run: Run, engine: Engine) -> None:
    in_backward(run)
    optimizer_of(run).step()
    kinds = [type(envelope.fact) for envelope in engine.history("model")]
    assert (kinds.count(LayerWidthModified), kinds.count(SurgeryRefused)) == (1, 0)


def test_deferred_surgeries_happen_in_order(run: Run) -> None:
    first, second = in_backward(run, 12), run.at_boundary(widened, run, 14)
    optimizer_of(run).step()
    assert first.result.version < second.result.version
    assert run.model.get_parameter("0.weight").shape[0] == 14


def test_with_a_scheduler_deferred_surgeries_wait_for_the_declared_end_of_the_step(engine: Engine) -> None:
    model = NESTED_MLP.build()
    optimizer = adam(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    run = engine.attach(model, "model", (NESTED_MLP.batch(),), optimizer, scheduler)
    deferred = in_backward(run)
    optimizer.step()
    scheduler.step()
    assert not deferred.done
    run.step_end()
    assert deferred.result.success


def test_deferred_surgeries_wait_through_gradient_accumulation(run: Run) -> None:
    deferred = in_backward(run)
    run.step_end()
    assert not deferred.done
    gradients(run.model, NESTED_MLP.batch())
    optimizer_of(run).step()
    assert deferred.result.success


def test_the_end_of_an_epoch_is_the_end_of_a_step(run: Run) -> None:
    deferred = run.at_boundary(widened, run)
    run.epoch_end()
    assert deferred.result.success


def test_a_deferred_change_can_be_refused(run: Run) -> None:
    deferred = run.at_boundary(run.surgeon.modify_layer_width, layer_name="no such layer", new_width=12)
    train_run(run, NESTED_MLP)
    assert deferred.result.check == "unknown_layer"


def test_misuse_in_a_deferred_call_surfaces_with_its_result_and_training_goes_on(run: Run) -> None:
    deferred = run.at_boundary(run.surgeon.add_layer, after_layer="0")
    train_run(run, NESTED_MLP)
    with pytest.raises(UsageError, match="needs new_layer"):
        deferred.result  # noqa: B018


def test_a_deferred_call_with_arguments_that_it_does_not_take_does_not_end_the_training(run: Run) -> None:
    deferred = run.at_boundary(run.surgeon.modify_layer_width, layer_name="0", unknown=1)  # type: ignore[call-arg]
    train_run(run, NESTED_MLP)
    with pytest.raises(TypeError, match="unknown"):
        deferred.result  # noqa: B018


def test_the_result_of_what_still_waits_is_no_result(run: Run) -> None:
    with pytest.raises(UsageError, match="waits for the end of a training step"):
        run.at_boundary(widened, run).result  # noqa: B018


def test_what_waits_can_be_cancelled(run: Run) -> None:
    deferred = run.at_boundary(widened, run)
    assert deferred.cancel()
    train_run(run, NESTED_MLP)
    assert not deferred.done
    assert run.model.get_parameter("0.weight").shape[0] == 8


def test_closing_a_run_cancels_what_waits(run: Run) -> None:
    deferred = run.at_boundary(widened, run)
    run.close()
    assert deferred.cancelled


def test_at_boundary_takes_a_call_and_not_its_result(run: Run) -> None:
    with pytest.raises(UsageError, match="what to call and its arguments"):
        run.at_boundary(widened(run))  # type: ignore[arg-type]


def test_a_compiled_models_graph_is_waited_for_as_well(engine: Engine) -> None:
    torch._dynamo.reset()
    run = attached(engine, CONV_NET, adam)
    compiled = torch.compile(run.model, backend="aot_eager", fullgraph=True)
    loss = compiled(CONV_NET.batch()).square().mean()
    change = {"layer_name": "conv1", "new_width": 9}
    assert run.surgeon.modify_layer_width(**change).check == "moment"  # type: ignore[arg-type]
    loss.backward()
    optimizer_of(run).step()
    assert run.surgeon.modify_layer_width(**change).success  # type: ignore[arg-type]
