"""Models under a wrapper that would lose track of their parameters: nothing is changed before it is gone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from models import NESTED_MLP
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from training import adam, attached

from esper_es import Engine, UsageError

from .photograph import differences, photograph

pytestmark = pytest.mark.skipif(not distributed.is_gloo_available(), reason="this torch has no gloo")


@pytest.fixture(autouse=True)
def _a_group_of_one() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_a_surgery_on_a_wrapped_model_is_refused_and_changes_nothing(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    wrapper = DistributedDataParallel(run.model)
    before = photograph(run)
    result = run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    assert (result.success, result.check, wrapper.module is run.model) == (False, "distributed", True)
    assert "drop the wrapper before, and make a new one afterwards" in (result.error or "")
    assert differences(before, photograph(run)) == []


def test_a_part_that_is_wrapped_by_itself_counts(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    wrapper = DistributedDataParallel(run.model.get_submodule("2"))
    assert (run.rollback(2).check, wrapper.training) == ("distributed", True)


def test_once_the_wrapper_is_gone_the_model_can_be_changed(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    wrapper = DistributedDataParallel(run.model)
    del wrapper
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=12).success


def test_another_models_wrapper_is_not_in_the_way(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    wrapper = DistributedDataParallel(torch.nn.Linear(2, 2))
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=12).success
    assert wrapper.training


def test_a_wrapped_model_does_not_resume(url: str) -> None:
    with Engine(url) as engine:
        attached(engine, NESTED_MLP, adam)
    model = NESTED_MLP.build()
    wrapper = DistributedDataParallel(model)
    with Engine(url) as engine, pytest.raises(UsageError, match="wrapped in DistributedDataParallel"):
        attached(engine, NESTED_MLP, adam, model=model)
    assert wrapper.training


def test_a_wrapper_is_no_model_to_attach(engine: Engine) -> None:
    with pytest.raises(UsageError, match=r"give ddp\.module"):
        attached(engine, NESTED_MLP, model=DistributedDataParallel(NESTED_MLP.build()))


def test_sharded_parameters_are_refused_by_name(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    fully_shard(run.model, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(UsageError, match="is sharded over several processes"):
        run.surgeon.modify_layer_width(layer_name="0", new_width=12)
