"""Copies of a live model on which everything is tried first."""

from __future__ import annotations

import copy
import sys

from torch import nn

from esper_es.domain.errors import UsageError

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def shadow_of(module: nn.Module) -> nn.Module:
    """Return a deep copy without gradients and without the user's hooks, which might act on the outside.

    Hooks of torch's own (weight norm, spectral norm) stay.

    Raises:
        UsageError: if the model can't be copied.
    """
    try:
        copied = copy.deepcopy(module)
    except Exception as error:
        raise UsageError(f"the model can't be deep-copied, which every surgery needs: {error}") from error
    for part in copied.modules():
        for name in _HOOKS:
            hooks: dict[int, object] = getattr(part, name, {})
            for key in list(hooks):
                if not _from_torch(hooks[key]):
                    del hooks[key]
    return copied


def _from_torch(hook: object) -> bool:
    owner = sys.modules.get(getattr(hook, "__module__", "") or type(hook).__module__)
    return owner is not None and owner.__name__.split(".")[0] == "torch"
