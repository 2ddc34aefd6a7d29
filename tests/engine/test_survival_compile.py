"""torch.compile(fullgraph=True) before and after surgery."""

from __future__ import annotations

import pytest
import torch

from esper_es import Engine, UsageError

from .survivors import CASES, SUBJECTS, loss_of, operate, output_of

EVERY_SURGERY = pytest.mark.parametrize(("name", "surgery"), CASES)


@pytest.fixture(autouse=True)
def _no_leftovers() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_compiled_model_follows_one_surgery_after_another(name: str, engine: Engine) -> None:
    subject = SUBJECTS[name]
    run = subject.attach(engine, subject.build().eval())
    compiled = torch.compile(run.model, fullgraph=True, backend="aot_eager")
    batch = subject.batch()
    for surgery in ("wider", "residual", "skip"):
        with torch.no_grad():
            output_of(compiled, batch)
        operate(subject, surgery, run)
    torch.testing.assert_close(output_of(compiled, batch), output_of(run.model, batch))


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_compiled_model_follows_a_rollback(name: str, engine: Engine) -> None:
    subject = SUBJECTS[name]
    run = subject.attach(engine, subject.build().eval())
    home, batch = run.capture(), subject.batch()
    operate(subject, "wider", run)
    compiled = torch.compile(run.model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        output_of(compiled, batch)
    assert run.rollback(home).success
    torch.testing.assert_close(output_of(compiled, batch), output_of(run.model, batch))


@pytest.mark.slow
@EVERY_SURGERY
def test_a_model_compiled_before_a_surgery_follows_it(name: str, surgery: str, engine: Engine) -> None:
    subject = SUBJECTS[name]
    run = subject.attach(engine, subject.build().eval())
    compiled = torch.compile(run.model, fullgraph=True, backend="eager")
    batch = subject.batch()
    output_of(compiled, batch)
    operate(subject, surgery, run)
    torch.testing.assert_close(output_of(compiled, batch), output_of(run.model, batch))


@pytest.mark.slow
@EVERY_SURGERY
def test_a_model_compiled_after_a_surgery_trains_the_same(name: str, surgery: str, engine: Engine) -> None:
    subject = SUBJECTS[name]
    run = subject.attach(engine, subject.build())
    operate(subject, surgery, run)
    batch = subject.batch()
    compiled = torch.compile(run.model, fullgraph=True, backend="aot_eager")
    loss_of(compiled, batch).backward()
    found = {key: p.grad for key, p in run.model.named_parameters()}
    run.model.zero_grad()
    loss_of(run.model, batch).backward()
    torch.testing.assert_close(found, {key: p.grad for key, p in run.model.named_parameters()})


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBJECTS)
def test_inductor_compiles_a_model_between_its_surgeries(name: str, engine: Engine) -> None:
    subject = SUBJECTS[name]
    run = subject.attach(engine, subject.build().eval())
    compiled = torch.compile(run.model, fullgraph=True)
    batch = subject.batch()
    for surgery in ("wider", "skip", "residual"):
        output_of(compiled, batch)
        operate(subject, surgery, run)
        torch.testing.assert_close(
            output_of(compiled, batch), output_of(run.model, batch), rtol=1e-4, atol=1e-5
        )


def test_what_compile_returned_is_no_model_to_attach(engine: Engine) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3))
    with pytest.raises(UsageError, match=r"not what torch.compile\(model\) returned"):
        engine.attach(torch.compile(model), "compiled", (torch.randn(2, 2),))
