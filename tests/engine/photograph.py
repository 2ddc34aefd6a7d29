"""Everything that a failed operation must leave as it was, in one comparable value."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import torch
from torch import nn

from esper_es import Run
from esper_es.projections.live.describe import describe


def photograph(run: Run) -> dict[str, Any]:
    """Return bytes, gradients, flags, generators and the identity of every object of a run."""
    live = run.session.live
    optimizer = live.optimizer
    return {
        "architecture": describe(run.model).fingerprint,
        "modules": [
            (path, id(part), type(part), part.training, _plain_attributes(part))
            for path, part in run.model.named_modules(remove_duplicate=False)
        ],
        "parameters": [
            (
                name,
                id(p),
                p.requires_grad,
                _bytes(p),
                p.data_ptr(),
                None if p.grad is None else _bytes(p.grad),
            )
            for name, p in run.model.named_parameters(remove_duplicate=False)
        ],
        "buffers": [(name, id(b), _bytes(b)) for name, b in run.model.named_buffers(remove_duplicate=False)],
        "optimizer": None if optimizer is None else _optimizer(optimizer),
        "scheduler": None if live.scheduler is None else copy.deepcopy(live.scheduler.state_dict()),
        "scaler": None if live.scaler is None else copy.deepcopy(live.scaler.state_dict()),
        "generators": (random.getstate(), _numpy_state(), _bytes(torch.get_rng_state())),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return which parts of two photographs differ."""
    return [part for part in before if before[part] != after[part]]


def _plain_attributes(module: nn.Module) -> dict[str, str]:
    hidden = ("_parameters", "_buffers", "_modules")
    return {name: repr(value) for name, value in module.__dict__.items() if name not in hidden}


def _optimizer(optimizer: torch.optim.Optimizer) -> Any:
    groups = [
        (id(group), [id(p) for p in group["params"]], {k: repr(v) for k, v in group.items() if k != "params"})
        for group in optimizer.param_groups
    ]
    state = {
        id(p): {key: _bytes(v) if isinstance(v, torch.Tensor) else v for key, v in entries.items()}
        for p, entries in optimizer.state.items()
    }
    return groups, state


def _numpy_state() -> Any:
    state: Any = np.random.get_state(legacy=True)
    return (state[0], state[1].tobytes(), *state[2:])


def _bytes(tensor: torch.Tensor) -> tuple[tuple[int, ...], torch.dtype, bytes]:
    plain = tensor.detach().cpu().contiguous()
    return tuple(plain.shape), plain.dtype, plain.flatten().view(torch.uint8).numpy().tobytes()
