"""What a projection needs of a tensor store. The vault satisfies it; projections never import the vault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class TensorSource(Protocol):
    """Gives back tensors by the digest of their dtype, shape and bytes."""

    def get(self, digest: str) -> torch.Tensor:
        """Return the tensor named by `digest`: a fresh, writable, contiguous CPU copy with verified bytes.

        Raises:
            UsageError: `digest` is not a tensor digest.
            MissingTensorError: nothing is stored under `digest`.
            IntegrityFailure: what is stored does not have this digest.
        """
        ...


@runtime_checkable
class TensorStore(TensorSource, Protocol):
    """A `TensorSource` that also takes tensors and opaque bytes in; what it returns from is durable."""

    def put_tensors(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
        """Store every tensor durably and return name -> digest. What is stored already is not rewritten.

        Raises:
            UsageError: a value has no bytes of its own (quantized, sparse, meta, wrapper subclass).
            VaultError: the content could not be made durable; nothing of it is promised.
        """
        ...

    def put_bytes(self, data: bytes) -> str:
        """Store opaque bytes (a manifest) durably and return their digest, "sha256:<hex>"."""
        ...

    def get_bytes(self, digest: str) -> bytes:
        """Return the bytes named by `digest`, verified. Raises as `get` does."""
        ...

    def contains(self, digest: str) -> bool:
        """Say whether a tensor or bytes with this digest are stored and not known to be damaged."""
        ...
