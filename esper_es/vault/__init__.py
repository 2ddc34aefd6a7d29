"""Content-addressed storage of tensors and manifests: durable, verified, shared between processes.

`Vault.open(path)` or `Vault.in_memory()`; `put` answers with digests, `get` takes them. How packs are laid
out is told in `format`, in which order they are written in `writer`, who may delete what in `garbage`.
"""

from esper_es.vault.digests import bytes_digest, digest_of
from esper_es.vault.findings import Finding, FindingKind
from esper_es.vault.garbage import GarbageReport
from esper_es.vault.intake import Blob, Receipt
from esper_es.vault.memory import MemoryVault
from esper_es.vault.vault import Vault

AnyVault = Vault | MemoryVault

__all__ = [
    "AnyVault",
    "Blob",
    "Finding",
    "FindingKind",
    "GarbageReport",
    "MemoryVault",
    "Receipt",
    "Vault",
    "bytes_digest",
    "digest_of",
]
