"""Programs that ``torch.compile`` made of a model before it was changed."""

from __future__ import annotations

import torch
from torch import nn
from torch.torch_version import TorchVersion

_OVERLOOK_CHANGES = TorchVersion(torch.__version__) < "2.13"
"""Before that release a program does not check a module's tensors again until someone writes to the dictionary that
holds them, and surgeries change tensors in place."""
_MARK = "esper_changed"


def let_programs_look_again(module: nn.Module) -> None:
    """Let compiled programs compare all tensors of a module, and of those below, with what they were compiled for."""
    if not _OVERLOOK_CHANGES:
        return
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            held[_MARK] = None
            del held[_MARK]
