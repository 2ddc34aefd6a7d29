"""Laws over random widths: growing keeps the function, a replay is the model, and every version can be had again."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis import given, settings
from models import CUSTOM_MLP, GROUPED_NET, NESTED_CNN, NESTED_MLP, RESNET, TIED_NET, Zoolet
from torch import nn
from training import adam, attached, train_run

from esper_es import Engine, Run, fingerprint
from esper_es.tracing import WidthGroup

LAYERS: dict[Zoolet, tuple[str, ...]] = {
    NESTED_MLP: ("0", "2.0"),
    NESTED_CNN: ("0", "3.0"),
    CUSTOM_MLP: ("enter", "middle"),
    RESNET: ("stem.0", "blocks.0.conv1", "blocks.1.conv2"),
    GROUPED_NET: ("enter", "pointwise"),
    TIED_NET: ("encode", "shared"),
}
PRESERVING = ("function_preserving", "kaiming", "xavier", "net2wider")


@st.composite
def widths(draw: st.DrawFn, initializations: tuple[str, ...] = PRESERVING) -> tuple[Zoolet, list[Any]]:
    zoolet = draw(st.sampled_from(list(LAYERS)))
    change = st.tuples(
        st.sampled_from(LAYERS[zoolet]),
        st.sampled_from([0.5, 0.75, 1.25, 2.0]),
        st.sampled_from(initializations),
    )
    return zoolet, draw(st.lists(change, min_size=1, max_size=3))


def changed(run: Run, layer: str, ratio: float, initialization: str) -> Any:
    group: WidthGroup = run.surgeon.trace().group_of(layer)
    units = max(1, round(group.units * ratio))
    return run.surgeon.modify_layer_width(
        layer_name=layer, new_width=units, unit="units", initialization=initialization
    )


def layers_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


@settings(max_examples=10, deadline=None)
@given(case=widths())
def test_any_sequence_of_widths_replays_and_rolls_back_exactly(case: tuple[Zoolet, list[Any]]) -> None:
    zoolet, changes = case
    torch.manual_seed(0)
    with Engine() as engine:
        run = attached(engine, zoolet, adam)
        versions = {}
        for layer, ratio, initialization in changes:
            train_run(run, zoolet)
            run.capture()
            versions[run.version] = (run.fingerprint, layers_of(run.model))
            changed(run, layer, ratio, initialization)
        train_run(run, zoolet)
        run.capture()
        assert fingerprint(engine.replay("model")) == run.fingerprint
        for version, expected in versions.items():
            run.rollback(to_version=version)
            assert (run.fingerprint, layers_of(run.model)) == expected


@settings(max_examples=10, deadline=None)
@given(
    zoolet=st.sampled_from([NESTED_CNN, CUSTOM_MLP, RESNET, GROUPED_NET]),
    ratio=st.floats(1.2, 3.0),
    data=st.data(),
)
def test_growing_by_any_amount_keeps_the_function_where_no_norm_mixes(
    zoolet: Zoolet, ratio: float, data: st.DataObject
) -> None:
    torch.manual_seed(0)
    layer, initialization = data.draw(st.sampled_from(LAYERS[zoolet])), data.draw(st.sampled_from(PRESERVING))
    with Engine() as engine:
        run = attached(engine, zoolet, adam)
        train_run(run, zoolet, 2)
        result = changed(run, layer, ratio, initialization)
        if result.success and not result.details["reduced_by"]:
            assert result.details["output_difference"] < 2e-6
