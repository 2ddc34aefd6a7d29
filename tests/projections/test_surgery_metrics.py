"""Metrics of surgeries are a projection of the facts."""

from __future__ import annotations

import torch
from torch import nn

from esper_es import Engine, SurgeryMetrics, WatchPolicy


def test_metrics_follow_the_log() -> None:
    engine = Engine()
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    run = engine.attach(model, "m", (torch.randn(4, 4),), watch=WatchPolicy(metric="accuracy", epochs=1))
    run.epoch_end({"accuracy": 0.8})
    run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    run.surgeon.remove_layer(layer_name="absent")
    run.epoch_end({"accuracy": 0.4})

    metrics = run.metrics

    assert (metrics.total_surgeries, metrics.successful_surgeries, metrics.failed_surgeries) == (2, 1, 1)
    assert metrics.rollback_count == 1
    assert metrics.surgeries_by_type == {"modify_layer_width": 1}
    assert metrics.performance_impact == {"modify_layer_width": 0.4 - 0.8}
    assert metrics.average_surgery_time_ms > 0
    assert metrics.peak_memory_usage_mb > 0


def test_a_result_recorded_by_hand_is_counted() -> None:
    engine = Engine()
    run = engine.attach(nn.Sequential(nn.Linear(4, 4)), "m", (torch.randn(4, 4),))
    metrics = SurgeryMetrics()

    metrics.record_surgery(run.surgeon.modify_layer_width(layer_name="0", new_width=9), 0.1)
    metrics.record_surgery(
        run.surgeon.add_layer(
            after_layer="0", new_layer={"type": "linear", "in_features": 4, "out_features": 4}, layer_name="x"
        ),
        0.2,
    )

    assert (metrics.total_surgeries, metrics.successful_surgeries, metrics.failed_surgeries) == (2, 1, 1)
    assert metrics.performance_impact == {"add_layer": 0.2}
