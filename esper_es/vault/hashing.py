"""Tensors and bytes turned into `Content`: hashed by two threads, as BLAKE3's own threading gains nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from attrs import frozen

from esper_es.domain.errors import UsageError
from esper_es.vault.content import Content, sliced
from esper_es.vault.digests import RunningDigest, bytes_digest
from esper_es.vault.raw import dtype_and_shape, host_bytes

_THREADS = 2
_BATCH = 4 << 20
"""Bytes per task: below this, handing work to a thread costs more than hashing."""


def tensor_contents(tensors: Mapping[str, torch.Tensor]) -> dict[str, Content]:
    """Hash every tensor. Bytes are brought to the host in the calling thread, so on the caller's CUDA stream.

    Raises:
        UsageError: a value is not a tensor with dense bytes; the message names it.
    """
    types = {name: _checked(name, tensor) for name, tensor in tensors.items()}
    largest_first = sorted(tensors, key=lambda name: _nbytes(tensors[name]), reverse=True)
    sources = (_Source(name, *types[name], _bytes_of(name, tensors[name])) for name in largest_first)
    hashed = dict(_hashed(_batched(sources)))
    return {name: hashed[name] for name in tensors}


def bytes_content(data: bytes) -> Content:
    """Hash opaque bytes.

    Raises:
        UsageError: not bytes.
    """
    if not isinstance(data, bytes):
        raise UsageError(f"expected bytes, got {type(data).__name__}; encode it first")
    return Content(bytes_digest(data), None, None, len(data), sliced(memoryview(data)))


@frozen
class _Source:
    """A tensor's bytes before they are hashed."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def _checked(name: str, tensor: torch.Tensor) -> tuple[str, tuple[int, ...]]:
    try:
        return dtype_and_shape(tensor)
    except UsageError as error:
        raise UsageError(f"{name!r}: {error}") from error


def _bytes_of(name: str, tensor: torch.Tensor) -> memoryview:
    try:
        return host_bytes(tensor)
    except UsageError as error:
        raise UsageError(f"{name!r}: {error}") from error


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _batched(sources: Iterable[_Source]) -> Iterator[list[_Source]]:
    batch: list[_Source] = []
    size = 0
    for source in sources:
        batch.append(source)
        size += len(source.data)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _hashed(batches: Iterator[list[_Source]]) -> Iterator[tuple[str, Content]]:
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="vault-hash") as pool:
        for contents in [pool.submit(_hash_all, batch) for batch in batches]:
            yield from contents.result()


def _hash_all(batch: list[_Source]) -> list[tuple[str, Content]]:
    return [(source.name, _hash(source)) for source in batch]


def _hash(source: _Source) -> Content:
    digest = RunningDigest(source.dtype, source.shape)
    digest.update(source.data)
    return Content(digest.text(), source.dtype, source.shape, len(source.data), sliced(source.data))
