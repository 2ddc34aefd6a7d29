"""Fingerprints: one string for all that a module, or a whole run, is."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from esper_es.domain.canonical import Json, canonical_bytes, fingerprint_of
from esper_es.domain.errors import UsageError
from esper_es.projections.live.describe import describe
from esper_es.projections.live.live import Live
from esper_es.projections.live.names import named_tensors
from esper_es.projections.live.snapshot import take, tensor_properties
from esper_es.vault.digests import bytes_digest, digest_of


def fingerprint(module: nn.Module) -> str:
    """Return ``sha256:...`` of a module: its architecture, and of every parameter and buffer the name, role,
    shape, dtype, memory format, ``requires_grad`` and bytes.

    Device and training flags do not matter.

    Raises:
        UsageError: if it is no module.
    """
    if not isinstance(module, nn.Module):
        raise UsageError(f"fingerprint takes an nn.Module, got {type(module).__name__}")
    tensors = {
        name: [tensor_properties(tensor, role), digest_of(tensor)]
        for name, tensor, role in named_tensors(module)
    }
    return fingerprint_of({"architecture": describe(module).fingerprint, "tensors": tensors})


def fingerprint_of_capture(document: Mapping[str, Json], digests: Mapping[str, str]) -> str:
    """Return what ``fingerprint`` gives for the module of a snapshot whose tensors have these digests."""
    tensors = {
        name: [properties, digests[f"module/{name}"]] for name, properties in document["module"].items()
    }
    return fingerprint_of({"architecture": document["architecture"], "tensors": tensors})


def manifest_bytes(document: Mapping[str, Json], digests: Mapping[str, str]) -> bytes:
    """Return the manifest of a snapshot: its document and the digests of its tensors, as canonical JSON."""
    return canonical_bytes({**document, "tensors": dict(digests)})


def state_fingerprint(live: Live) -> str:
    """Return the fingerprint of a whole run, RNG included: the digest of the manifest a capture would have."""
    snapshot = take(live)
    digests = {name: digest_of(tensor) for name, tensor in snapshot.tensors.items()}
    return bytes_digest(manifest_bytes(snapshot.document, digests))
