"""The full check of a vault: every byte of every pack, and the index against them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum

from attrs import frozen

from esper_es.domain.errors import IntegrityFailure, VaultError
from esper_es.vault.catalog import Catalog
from esper_es.vault.directory import PackDirectory, PackGoneError
from esper_es.vault.reader import damage, read_pack

_THREADS = 2


class FindingKind(StrEnum):
    """What can be wrong with a vault."""

    DAMAGED_BLOB = "damaged_blob"
    """Stored bytes do not have their digest."""
    DAMAGED_PACK = "damaged_pack"
    """Footer, trailer or padding were altered, or the pack was cut short."""
    UNREADABLE_PACK = "unreadable_pack"
    """The pack cannot be read at all, or has a newer format."""
    VANISHED_PACK = "vanished_pack"
    """A pack that was indexed is gone, and nobody collected it."""
    INDEX_DISAGREES = "index_disagrees"
    """The index says something else than the pack; deleting the index repairs it."""
    FOREIGN_FILE = "foreign_file"
    """Something that no vault writes lies among the packs (a link, an unknown name). It is never read."""


@frozen
class Finding:
    """One thing that is wrong. `digest` is given when exactly one blob is concerned."""

    kind: FindingKind
    pack: str
    digest: str | None
    detail: str


def find_damage(directory: PackDirectory, catalog: Catalog) -> list[Finding]:
    """Read everything and say what is wrong. Damaged copies are remembered: later captures replace them.

    What was damaged and has been restored from a backup counts again.
    """
    listing = directory.listing()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="vault-verify") as pool:
        findings_by_pack = dict(
            pool.map(lambda pack: (pack, _examine(directory, pack)), sorted(listing.packs))
        )
    findings = []
    for pack, found in findings_by_pack.items():
        findings += found or _index_findings(directory, catalog, pack)
        _remember(catalog, pack, found)
    for pack in catalog.vanished():
        detail = f"pack {pack} was indexed and is gone: restore it from a backup"
        findings.append(Finding(FindingKind.VANISHED_PACK, pack, None, detail))
    for name in listing.foreign:
        detail = f"{name} in {directory.path} is no regular file of a vault: it is ignored, remove it"
        findings.append(Finding(FindingKind.FOREIGN_FILE, name, None, detail))
    return findings


def _examine(directory: PackDirectory, name: str) -> list[Finding]:
    try:
        return [
            Finding(FindingKind.DAMAGED_BLOB if digest else FindingKind.DAMAGED_PACK, name, digest, detail)
            for digest, detail in damage(directory, name)
        ]
    except PackGoneError:
        return []  # collected meanwhile
    except IntegrityFailure as error:
        return [Finding(FindingKind.DAMAGED_PACK, name, None, str(error))]  # cut short while it was read
    except VaultError as error:
        return [Finding(FindingKind.UNREADABLE_PACK, name, None, str(error))]


def _index_findings(directory: PackDirectory, catalog: Catalog, name: str) -> list[Finding]:
    try:
        pack = read_pack(directory, name)
    except PackGoneError:
        return []
    return [
        Finding(
            FindingKind.INDEX_DISAGREES, name, digest, f"the index contradicts pack {name} about {digest}"
        )
        for digest in catalog.disagreements(pack)
    ]


def _remember(catalog: Catalog, pack: str, found: list[Finding]) -> None:
    blobs = [finding.digest for finding in found if finding.digest is not None]
    if not found:
        catalog.mark_intact(pack)
    elif len(blobs) < len(found):
        catalog.mark_pack_damaged(pack)
    else:
        for digest in blobs:
            catalog.mark_damaged(digest, pack)
