"""Captures: the whole state of a run in the vault, under the digest of its manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import orjson
import torch

from esper_es.domain.canonical import Json
from esper_es.domain.errors import IntegrityFailure
from esper_es.domain.facts import StateCaptured
from esper_es.failpoints import reach
from esper_es.fingerprints import fingerprint_of_capture, manifest_bytes
from esper_es.projections.live.live import Live
from esper_es.projections.live.snapshot import take
from esper_es.vault import AnyVault

_NEW = "new/"


def store_capture(
    live: Live, vault: AnyVault, reason: str, new_tensors: Mapping[str, torch.Tensor] | None = None
) -> StateCaptured:
    """Store the state of a run, and tensors that a change is about to bring in, durably and in one pack.

    Args:
        live: the run.
        vault: where to.
        reason: of the capture.
        new_tensors: by digest.

    Returns:
        The fact to commit; its ``of_version`` is set by the command that records it.

    Raises:
        VaultError: if it can't be stored; nothing changed.
        UsageError: if the run holds something that can't be stored without pickle.
    """
    snapshot = take(live)
    document = snapshot.document

    def manifest(digests: Mapping[str, str]) -> bytes:
        own = {name: digest for name, digest in digests.items() if not name.startswith(_NEW)}
        return manifest_bytes(document, own)

    coming = {_NEW + digest: tensor for digest, tensor in (new_tensors or {}).items()}
    receipt = vault.put({**snapshot.tensors, **coming}, {"manifest": manifest})
    reach("capture.stored")
    return StateCaptured(
        of_version=0,
        manifest=receipt.blobs["manifest"],
        model_fingerprint=fingerprint_of_capture(document, receipt.tensors),
        tensors=len(snapshot.tensors),
        nbytes=sum(tensor.nbytes for tensor in snapshot.tensors.values()),
        reason=reason,
    )


class LoadedCapture:
    """A capture read back: its document, and its tensors by name, each verified when asked for."""

    def __init__(self, vault: AnyVault, manifest: str) -> None:
        """Read a manifest.

        Raises:
            MissingTensorError: if it is not in the vault.
            IntegrityFailure: if its bytes are damaged.
        """
        self._vault = vault
        loaded = orjson.loads(vault.get_bytes(manifest))
        if not isinstance(loaded, dict) or not isinstance(loaded.get("tensors"), dict):
            raise IntegrityFailure(f"{manifest} is not a manifest")
        self.document: Mapping[str, Json] = loaded
        self.digests: Mapping[str, str] = loaded["tensors"]

    def tensor(self, name: str) -> torch.Tensor:
        """Return a fresh CPU tensor, verified.

        Raises:
            IntegrityFailure: if the manifest has no such name, or the bytes are damaged.
            MissingTensorError: if the vault lacks it.
        """
        if name not in self.digests:
            raise IntegrityFailure(f"the manifest names no tensor {name!r}")
        return self._vault.get(self.digests[name])

    def verified(self) -> Callable[[str], torch.Tensor]:
        """Load and verify every tensor before any is used, and return the lookup, which gives each to keep."""
        tensors = {name: self._vault.get(digest) for name, digest in self.digests.items()}
        return lambda name: tensors.pop(name) if name in tensors else self.tensor(name)
