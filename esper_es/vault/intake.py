"""What one `put` takes in, hashed, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from attrs import frozen

from esper_es.vault.content import Content
from esper_es.vault.hashing import bytes_content, tensor_contents

Blob: TypeAlias = bytes | Callable[[Mapping[str, str]], bytes]
"""Opaque bytes, or a function that makes them from the digests, by name, of the tensors of the same call."""


@frozen
class Receipt:
    """Digests by name, and what had to be written: nothing (None, 0) if all of it was stored before."""

    tensors: dict[str, str]
    blobs: dict[str, str]
    pack: str | None
    bytes_written: int


@frozen
class Intake:
    """Everything handed to one `put`, hashed."""

    tensors: dict[str, Content]
    blobs: dict[str, Content]

    @property
    def unique(self) -> dict[str, Content]:
        """The content by digest, each once, in the order in which it was handed over."""
        return {content.digest: content for content in (*self.tensors.values(), *self.blobs.values())}

    def receipt(self, pack: str | None, bytes_written: int) -> Receipt:
        """Answer the `put`."""
        return Receipt(_digests(self.tensors), _digests(self.blobs), pack, bytes_written)


def hash_intake(tensors: Mapping[str, torch.Tensor], blobs: Mapping[str, Blob]) -> Intake:
    """Hash tensors, then make and hash the blobs.

    Raises:
        UsageError: a tensor has no dense bytes, or a blob is not bytes.
    """
    hashed = tensor_contents(tensors)
    digests = _digests(hashed)
    return Intake(
        hashed,
        {name: bytes_content(blob(digests) if callable(blob) else blob) for name, blob in blobs.items()},
    )


def _digests(contents: Mapping[str, Content]) -> dict[str, str]:
    return {name: content.digest for name, content in contents.items()}
