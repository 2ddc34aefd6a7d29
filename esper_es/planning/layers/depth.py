"""Depth of the computation: parametrised operations on the longest path from an input to an output."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from esper_es.tracing.operator_mode import OperatorMode


class DepthMode(OperatorMode):
    """While it is open, follows how many parametrised operations lie behind each tensor.

    Args:
        parameters: of the model that runs meanwhile.

    Attributes:
        deepest: the most that lay behind any tensor.
    """

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.depths: MutableMapping[torch.Tensor, int] = WeakTensorKeyDictionary()
        self.weights: MutableMapping[torch.Tensor, bool] = WeakTensorKeyDictionary()
        self.deepest = 0
        for parameter in parameters:
            self.weights[parameter] = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        weights = [tensor for tensor in inputs if tensor in self.weights]
        data = [tensor for tensor in inputs if tensor not in self.weights]
        for result in tree_leaves(output):
            if not isinstance(result, torch.Tensor):
                continue
            if weights and not data:
                self.weights[result] = True
                continue
            depth = max((self.depths.get(tensor, 0) for tensor in data), default=0) + bool(weights)
            self.depths[result] = max(depth, self.depths.get(result, 0))
            self.deepest = max(self.deepest, depth)
        return output
