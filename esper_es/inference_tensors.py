"""Tensors made under ``torch.inference_mode``, which can't be trained, nor changed but under it again."""

from __future__ import annotations

from torch import nn

from esper_es.domain.errors import UsageError
from esper_es.projections.live.names import named_tensors


def require_none(module: nn.Module) -> None:
    """Check that no tensor of a module is one.

    Raises:
        UsageError: naming the first.
    """
    found = [name for name, tensor, _ in named_tensors(module) if tensor.is_inference()]
    if found:
        raise UsageError(
            f"tensor {found[0]!r} was made under torch.inference_mode, so that it can be neither trained nor changed; "
            "build, load or copy the model outside of it"
        )
