"""Whether a run moved since somebody looked: told by versions and addresses of its tensors, no byte being read.

Looking costs a few microseconds a tensor. It sees optimizer steps, BatchNorm statistics, ``load_state_dict``,
``nn.init``, ``clamp_``, swapped or replaced tensors, changed hyperparameters, and every other write through
PyTorch, also within ``no_grad`` and ``inference_mode``.

It does not see writes that go around autograd's version counter: through ``tensor.data``, a NumPy view, a raw
pointer (``data_ptr``, custom kernels), or by fused optimizers; steps of the attached optimizer are counted
beside, by a hook. It does not look at gradients, which no capture holds, nor at plain attributes of modules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from weakref import ref

import torch
from attrs import frozen
from torch import nn
from torch.optim import Optimizer

from esper_es.projections.live.live import Live
from esper_es.projections.live.names import named_tensors
from esper_es.projections.live.plain import to_json
from esper_es.projections.live.rng import capture_rng

BY_VALUE = 8192
"""Elements up to which a tensor that may be a fresh copy, of a state dict or a generator, is compared by value."""


@frozen(eq=False)
class Mark:
    """What a run was when somebody looked; it keeps nothing alive.

    Attributes:
        parts: what was seen, by the names of ``TrainingContinued.moved``.
        tensors: those seen. While they live, no others have their identities.
    """

    parts: Mapping[str, object]
    tensors: Mapping[str, tuple[ref[torch.Tensor], ...]]

    @classmethod
    def of(cls, live: Live) -> Mark:
        """Look at a run."""
        return cls(
            _parts(live), {"module": _alive(_of_module(live)), "optimizer": _alive(_of_optimizer(live))}
        )

    def moved(self, live: Live) -> tuple[str, ...]:
        """Return the parts that are not what they were."""
        gone = {part for part, tensors in self.tensors.items() if any(t() is None for t in tensors)}
        now = _parts(live)
        return tuple(part for part, seen in self.parts.items() if part in gone or now[part] != seen)


def _alive(tensors: Iterable[torch.Tensor]) -> tuple[ref[torch.Tensor], ...]:
    return tuple(ref(tensor) for tensor in tensors)


def _of_module(live: Live) -> Iterable[torch.Tensor]:
    return (tensor for _, tensor, _ in named_tensors(live.module))


def _of_optimizer(live: Live) -> Iterable[torch.Tensor]:
    states = () if live.optimizer is None else live.optimizer.state.values()
    return (value for state in states for value in state.values() if isinstance(value, torch.Tensor))


def _parts(live: Live) -> dict[str, object]:
    return {
        "module": [(name, _seen(tensor)) for name, tensor, _ in named_tensors(live.module)],
        "optimizer": None if live.optimizer is None else _optimizer(live.optimizer),
        "scheduler": _values(live.scheduler),
        "scaler": _values(live.scaler),
        "modes": _training(live.module),
        "generators": _compared(capture_rng()),
    }


def _seen(tensor: torch.Tensor) -> tuple[Any, ...]:
    return (id(tensor), *_written(tensor), tensor.requires_grad)


def _written(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Return how often PyTorch wrote to a tensor, where its bytes lie, and how they are read."""
    version = 0 if tensor.is_inference() else tensor._version
    address = tensor.data_ptr() if tensor.layout is torch.strided else 0
    return version, address, tensor.shape, tensor.dtype


def _optimizer(optimizer: Optimizer) -> list[object]:
    groups = [
        (key, [id(p) for p in value] if key == "params" else _plain(value))
        for group in optimizer.param_groups
        for key, value in group.items()
    ]
    state = [
        (id(parameter), key, _plain(value))
        for parameter, entries in optimizer.state.items()
        for key, value in entries.items()
    ]
    return [groups, state]


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return _seen(value)
    return tuple(value) if isinstance(value, list) else value


def _values(holder: Any) -> object:
    """Return the state dict of a scheduler or scaler, so that it compares."""
    return None if holder is None else _compared(holder.state_dict())


def _compared(value: Any) -> object:
    tensors: dict[str, object] = {}

    def store(name: str, tensor: torch.Tensor) -> None:
        tensors[name] = str(tensor.tolist()) if tensor.numel() <= BY_VALUE else _written(tensor)

    return to_json(value, "", store), tensors


def _training(module: nn.Module) -> list[bool]:
    return [part.training for part in module.modules()]
