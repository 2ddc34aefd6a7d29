"""Run a model without a trace left: flags, random generators, backend switches come back as they were."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from esper_es.tracing.structure import tensors_in


@contextmanager
def undisturbed(model: nn.Module, examples: object) -> Iterator[None]:
    """Evaluation mode without gradients, and exact restoration of everything that running could change."""
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers(), *tensors_in(examples))}
    with ExitStack() as stack:
        stack.enter_context(_random_state(devices))
        stack.enter_context(_evaluating(model))
        stack.enter_context(forgetting(model))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        yield


@contextmanager
def forgetting(model: nn.Module) -> Iterator[None]:
    """Take back what a run keeps of its tensors in attributes of modules: a table computed once from parameters, and
    looked up ever after, would be out of date after a surgery, and nothing could be followed through it."""
    before = [(vars(module), _kept(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for attributes, kept in before:
            for name, (value, _) in _kept(attributes).items():
                if name not in _REGISTRIES and _holds_tensors(value):
                    _put_back(attributes, name, kept.get(name))


_REGISTRIES = frozenset(("_parameters", "_buffers", "_modules"))


def _kept(attributes: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Each attribute, and the content of those that are plain containers."""
    return {
        name: (value, copy(value) if type(value) in (dict, list) else None)
        for name, value in attributes.items()
    }


def _holds_tensors(value: Any) -> bool:
    content = value.values() if type(value) is dict else value if type(value) in (list, tuple) else [value]
    return any(isinstance(each, torch.Tensor) for each in content)


def _put_back(attributes: dict[str, Any], name: str, kept: tuple[Any, Any] | None) -> None:
    if kept is None:
        del attributes[name]
        return
    value, content = kept
    attributes[name] = value
    if type(value) is dict:
        value.clear()
        value.update(content)
    elif type(value) is list:
        value[:] = content


@contextmanager
def plain_kernels() -> Iterator[None]:
    """No fused path that would hide operators: cuDNN, the attention fast path, fused attention."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    cudnn = torch.backends.cudnn.enabled
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        torch.backends.cudnn.enabled = False
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        torch.backends.cudnn.enabled = cudnn


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection: tracing makes many small objects that all live until it ends, and no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def without_onednn() -> Iterator[None]:
    """oneDNN fuses whole recurrent layers. Elsewhere it hides nothing, and convolutions are slow without it."""
    enabled = bool(torch.backends.mkldnn.enabled)
    try:
        _enable_onednn(False)
        yield
    finally:
        _enable_onednn(enabled)


def _enable_onednn(enabled: bool) -> None:
    """Without ``mkldnn.flags``, which also sets (and warns about) precision."""
    setattr(torch.backends.mkldnn, "enabled", enabled)  # noqa: B010


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Set the flags themselves: a model may override ``train`` and do more than set them."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, flag in flags:
            if flag:
                module.training = False
        yield
    finally:
        for module, flag in flags:
            if module.training != flag:
                module.training = flag


@contextmanager
def _random_state(devices: Iterable[torch.device]) -> Iterator[None]:
    """Python's, numpy's and torch's generators, the last one on the CPU and on the accelerators in use."""
    python, legacy = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for device in devices:
            if device.type in ("cuda", "xpu"):
                index = device.index if device.index is not None else 0
                stack.enter_context(torch.random.fork_rng(devices=[index], device_type=device.type))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
