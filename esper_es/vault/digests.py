"""Names of content: BLAKE3 for tensors (over dtype, shape and bytes), SHA-256 for opaque bytes.

BLAKE3: O'Connor, Aumasson, Neves and Wilcox-O'Hearn, "BLAKE3: one function, fast everywhere" (2020).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Protocol

import torch
from blake3 import blake3

from esper_es.domain.errors import UsageError
from esper_es.vault.raw import dtype_and_shape, host_bytes

_TENSOR = re.compile(r"b3:[0-9a-f]{64}")
_BYTES = re.compile(r"sha256:[0-9a-f]{64}")


class RunningDigest:
    """The digest of content that arrives in slices: a tensor's if dtype and shape are given."""

    def __init__(self, dtype: str | None = None, shape: Sequence[int] | None = None) -> None:
        self._hash: _Hash
        if dtype is None or shape is None:
            self._prefix = "sha256:"
            self._hash = hashlib.sha256()
        else:
            self._prefix = "b3:"
            self._hash = blake3(_header(dtype, shape))

    def update(self, data: bytes | memoryview) -> None:
        """Take in the next bytes."""
        self._hash.update(data)

    def text(self) -> str:
        """Return the digest of everything taken in, with its algorithm: "b3:<hex>" or "sha256:<hex>"."""
        return self._prefix + self._hash.hexdigest()


def digest_of(tensor: torch.Tensor) -> str:
    """Return "b3:<64 hex digits>": BLAKE3 of dtype name, shape, and the elements' bytes in row-major order.

    Bytes decide: 0.0 and -0.0 differ, and NaN payloads count. Strides, memory format, device and gradients do
    not count. CUDA and non-contiguous tensors are copied to the host once, others are not copied.

    Raises:
        UsageError: no dense bytes of its own (quantized, sparse, nested, meta, lazy, wrapper subclass).
    """
    digest = RunningDigest(*dtype_and_shape(tensor))
    digest.update(host_bytes(tensor))
    return digest.text()


def bytes_digest(data: bytes | memoryview) -> str:
    """Return "sha256:<64 hex digits>" of opaque bytes."""
    digest = RunningDigest()
    digest.update(data)
    return digest.text()


def is_tensor_digest(text: object) -> bool:
    """Say whether `text` has the form of a tensor digest."""
    return isinstance(text, str) and _TENSOR.fullmatch(text) is not None


def is_bytes_digest(text: object) -> bool:
    """Say whether `text` has the form of a digest of opaque bytes."""
    return isinstance(text, str) and _BYTES.fullmatch(text) is not None


def require_tensor_digest(text: str) -> None:
    """Raise UsageError unless `text` is "b3:" and 64 lower-case hex digits."""
    if not is_tensor_digest(text):
        raise UsageError(f"{text!r} is not a tensor digest, which is 'b3:' and 64 lower-case hex digits")


def require_bytes_digest(text: str) -> None:
    """Raise UsageError unless `text` is "sha256:" and 64 lower-case hex digits."""
    if not is_bytes_digest(text):
        raise UsageError(
            f"{text!r} is not a digest of bytes, which is 'sha256:' and 64 lower-case hex digits"
        )


def require_digest(text: str) -> None:
    """Raise UsageError unless `text` is a tensor digest or a digest of bytes."""
    if not (is_tensor_digest(text) or is_bytes_digest(text)):
        raise UsageError(
            f"{text!r} is not a digest, which is 'b3:' (tensor) or 'sha256:' (bytes) "
            "and 64 lower-case hex digits"
        )


def _header(dtype: str, shape: Sequence[int]) -> bytes:
    return f"esper-es tensor 1\n{dtype}\n{','.join(map(str, shape))}\n".encode("ascii")


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> object: ...
    def hexdigest(self) -> str: ...
