"""What the vault holds and where: the index, kept in step with the packs that are really there."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from esper_es.domain.errors import IntegrityFailure, VaultError
from esper_es.failpoints import reach
from esper_es.vault.directory import Listing, PackDirectory, PackGoneError
from esper_es.vault.format import NewerFormatError, Pack
from esper_es.vault.index import Index, Location
from esper_es.vault.reader import read_pack

logger = logging.getLogger(__name__)


class Catalog:
    """Answers where content lies. The packs are the truth; the index only saves reading their footers.

    Raises:
        VaultError: from every method, when packs or index cannot be read.
    """

    def __init__(self, directory: PackDirectory, index: Index) -> None:
        self._directory = directory
        self._index = index
        self._unreadable: set[str] = set()

    @property
    def unreadable(self) -> frozenset[str]:
        """Packs whose footer is damaged, as far as this process has met them."""
        return frozenset(self._unreadable)

    def record(self, pack: Pack) -> None:
        """Index a pack that was just written."""
        self._index.add(pack)

    def catch_up(self) -> Listing:
        """Index the packs that other processes wrote, or that a killed one did not get to index.

        A pack that cannot be read is passed over, so that it costs nobody the others.

        Raises:
            NewerFormatError: a pack was written by a newer release.
        """
        listing = self._directory.listing()
        unknown = listing.packs.keys() - self._index.packs().keys() - self._unreadable
        if unknown:
            self._directory.sync()  # a writer may have died before its pack's name was durable
            self._read_footers(unknown)
        return listing

    def read_all_footers(self) -> None:
        """Index every pack anew."""
        self._unreadable.clear()
        self._read_footers(self._directory.listing().packs)

    def locations(self, digest: str) -> list[Location]:
        """Return the copies of some content that the index knows of, intact ones first."""
        return self._index.locations([digest]).get(digest, [])

    def stored(self, digests: Iterable[str], *, lasting: bool) -> set[str]:
        """Return those digests that have an intact copy in place; `lasting`: in a pack that will stay."""
        wanted = set(digests)
        listing = self.catch_up()
        copies = self._index.locations(wanted)
        return {
            digest for digest in copies if any(_counts(copy, listing, lasting) for copy in copies[digest])
        }

    def digests(self) -> set[str]:
        """Return the digests of everything of which an intact copy is in place."""
        listing = self.catch_up()
        return {digest for digest, pack in self._index.intact() if pack in listing.packs}

    def mark_damaged(self, digest: str, pack: str) -> None:
        """Stop relying on a copy."""
        self._index.mark_damaged(digest, pack)

    def mark_pack_damaged(self, pack: str) -> None:
        """Stop relying on a pack: what it contains could not be found any more without the index."""
        self._index.mark_pack_damaged(pack)

    def mark_intact(self, pack: str) -> None:
        """Rely on a pack again, which was damaged once and has been restored."""
        self._unreadable.discard(pack)
        self._index.mark_intact(pack)

    def disagreements(self, pack: Pack) -> list[str]:
        """Return the digests about which the index contradicts the pack; none if the pack is not indexed."""
        if pack.name not in self._index.packs():
            return []
        indexed = {location.entry for location in self._index.contents(pack.name)}
        return sorted({entry.digest for entry in indexed ^ set(pack.entries)})

    def vanished(self) -> list[str]:
        """Return the packs that were indexed and are gone, though nobody collected them."""
        indexed = self._index.packs().keys()
        listing = self._directory.listing()
        return sorted(indexed - listing.packs.keys() - listing.tombstones.keys())

    def delete(self, pack: str) -> None:
        """Delete a buried pack, its index rows, then its tombstone, which tells of a crash in between."""
        self._directory.delete(pack)
        reach("vault.deleted")
        self._index.forget(pack)
        self._directory.revive(pack)

    def finish_deletions(self) -> None:
        """Finish what a killed collector left: tombstones whose pack is deleted."""
        listing = self._directory.listing()
        for pack in sorted(listing.tombstones.keys() - listing.packs.keys()):
            self._index.forget(pack)
            self._directory.revive(pack)

    def close(self) -> None:
        """Close the index."""
        self._index.close()

    def _read_footers(self, packs: Collection[str]) -> None:
        for name in sorted(packs):
            try:
                self._index.replace(read_pack(self._directory, name))
            except PackGoneError:
                continue
            except NewerFormatError:
                raise
            except (IntegrityFailure, VaultError) as error:
                logger.warning("%s; what it contains is found only as far as it was indexed before", error)
                self._unreadable.add(name)
                self._index.mark_pack_damaged(name)


def _counts(copy: Location, listing: Listing, lasting: bool) -> bool:
    state = listing.packs.get(copy.pack)
    if copy.damaged or state is None or state.size != copy.pack_size:
        return False
    return not lasting or copy.pack not in listing.tombstones
