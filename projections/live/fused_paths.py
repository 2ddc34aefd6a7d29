"""Where torch's encoder layers would go around modules: in evaluation they read weights, and pack what is padded."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from esper_es.projections.live.hosting import HEARD, STANDING, heard
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.names import module_at

_PACKED = "_esper_packed"


def may_be_fused(root: nn.Module, path: str) -> bool:
    """Say whether a module lies in an encoder layer, which in evaluation reads weights and calls no module."""
    return any(isinstance(holder, nn.TransformerEncoderLayer) for holder in _holders(root, path))


def _holders(root: nn.Module, path: str) -> Iterator[nn.Module]:
    parts = path.split(".") if path else []
    return (module_at(root, ".".join(parts[:depth])) for depth in range(len(parts)))


def step_aside(journal: Journal, root: nn.Module, path: str, key: int) -> None:
    """Let fused paths step aside for the module at ``path``: layers before a hook, encoders from packing.

    Args:
        journal: takes how to undo it.
        root: of the model.
        path: of a host, or of what stands in the place of another module.
        key: of the hook: ``HEARD`` or ``STANDING``.
    """
    if may_be_fused(root, path):
        journal.set_item(module_at(root, path)._forward_hooks, key, heard)
    for holder in _holders(root, path):
        if isinstance(holder, nn.TransformerEncoder) and getattr(holder, "use_nested_tensor", False):
            journal.set_attribute(holder, _PACKED, True)
            journal.set_attribute(holder, "use_nested_tensor", False)


def step_back(journal: Journal, root: nn.Module) -> None:
    """Let encoders pack again in which nothing is hosted and nothing stands for another module any more."""
    for encoder in root.modules():
        if encoder.__dict__.get(_PACKED) and not any(_in_the_way(part) for part in encoder.modules()):
            attributes = {key: value for key, value in encoder.__dict__.items() if key != _PACKED}
            journal.replace_items(encoder.__dict__, {**attributes, "use_nested_tensor": True})


def _in_the_way(part: nn.Module) -> bool:
    hooked = HEARD in part._forward_hooks or STANDING in part._forward_hooks
    return hooked or bool(part.__dict__.get("_esper_stages"))
