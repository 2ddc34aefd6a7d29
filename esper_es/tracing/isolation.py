"""Run a model without a trace left: flags, random generators, backend switches come back as they were."""

from __future__ import annotations

import gc
import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from esper_es.tracing.structure import tensors_in


@contextmanager
def undisturbed(model: nn.Module, examples: object) -> Iterator[None]:
    """Evaluation mode without gradients, and exact restoration of everything that running could change."""
    modules = list(model.modules())
    held = [t for part in modules for t in (*part._parameters.values(), *part._buffers.values())]
    devices = {tensor.device for tensor in (*held, *tensors_in(examples)) if tensor is not None}
    with ExitStack() as stack:
        stack.enter_context(_random_state(devices))
        stack.enter_context(remembering_nothing(modules))
        stack.enter_context(_evaluating(modules))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        yield


_OF_TORCH = frozenset(
    name for name in nn.Module().__dict__ if not name.startswith("_forward_") and name != "_buffers"
)
"""What torch keeps on every module, but for hooks of its forward pass and for buffers: some models hook their layers as
they run, some give a buffer another tensor."""


@contextmanager
def remembering_nothing(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Take back what a forward pass keeps on modules, in attributes, dicts, lists and hooks: tensors that were
    computed once (position biases) would stand for what they were computed from in every later run."""
    before = [_kept(vars(module)) for module in modules]
    try:
        yield
    finally:
        for attributes, values, contents in before:
            _restore(attributes, values)
            for container, content in contents:
                _refill(container, content)


def _kept(attributes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[tuple[Any, Any]]]:
    """A module's attributes, those that are not torch's own, and what the plain containers among them hold; None for
    nothing."""
    own = {name: value for name, value in attributes.items() if name not in _OF_TORCH}
    contents = [
        (value, value.copy() if value else None)
        for value in own.values()
        if type(value) in (dict, OrderedDict, list)
    ]
    return attributes, own, contents


def _restore(attributes: dict[str, Any], values: dict[str, Any]) -> None:
    for name in attributes.keys() - _OF_TORCH - values.keys():
        del attributes[name]
    for name, value in values.items():
        if attributes.get(name, attributes) is not value:
            attributes[name] = value


def _refill(container: Any, content: Any) -> None:
    if content is None:
        if container:
            container.clear()
    elif not _same(container, content):
        container.clear()
        if isinstance(container, dict):
            container.update(content)
        else:
            container.extend(content)


def _same(value: Any, content: Any) -> bool:
    if isinstance(value, dict):
        return value.keys() == content.keys() and all(value[key] is content[key] for key in content)
    return len(value) == len(content) and all(a is b for a, b in zip(value, content, strict=True))


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
def _evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Set the flags themselves: a model may override ``train`` and do more than set them."""
    flags = [(module, module.training) for module in modules]
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
