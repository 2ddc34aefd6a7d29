"""Deletes content that no fact names any more.

A pack first gets a tombstone, which makes new captures stop relying on it. It is deleted by a collection that
comes at least the grace period later and still finds it unneeded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Set

from attrs import evolve, frozen

from esper_es.domain.errors import IntegrityFailure, UsageError, VaultError
from esper_es.failpoints import reach
from esper_es.vault.catalog import Catalog
from esper_es.vault.digests import require_digest
from esper_es.vault.directory import Listing, PackDirectory, PackGoneError
from esper_es.vault.format import Entry, Pack
from esper_es.vault.reader import read_pack, stored_content
from esper_es.vault.writer import write_pack

logger = logging.getLogger(__name__)


@frozen
class GarbageReport:
    """What a collection did, or with `dry_run` would do. Packs are given by name."""

    dry_run: bool
    buried: tuple[str, ...] = ()
    """Got a tombstone; a later collection deletes them."""
    revived: tuple[str, ...] = ()
    """Had a tombstone and are needed again."""
    deleted: tuple[str, ...] = ()
    repacked: tuple[str, ...] = ()
    """Those of the deleted whose reachable content was first moved to a new pack."""
    damaged: tuple[str, ...] = ()
    """Left alone, because what they contain cannot be read."""
    freed_bytes: int = 0


@frozen
class Verdict:
    """What should happen to one pack."""

    pack: Pack
    live: tuple[Entry, ...]
    bury: bool = False
    revive: bool = False
    delete: bool = False

    @property
    def freed_bytes(self) -> int:
        """Bytes of the pack that are given back, without what moves to a new pack."""
        return self.pack.size - sum(entry.length for entry in self.live)


def require_sane(reachable: Set[str], grace_seconds: float, min_dead_share: float) -> None:
    """Check what a collection is asked for, before anything is deleted by mistake.

    Raises:
        UsageError: something reachable is not a digest, or a number is out of range.
    """
    for digest in reachable:
        require_digest(digest)
    if not grace_seconds >= 0:
        raise UsageError(f"grace_seconds={grace_seconds} is out of range: name seconds, 0 or more")
    if not 0 <= min_dead_share <= 1:
        raise UsageError(f"min_dead_share={min_dead_share} is out of range: name a share from 0 to 1")


def judge(
    pack: Pack,
    reachable: Set[str],
    *,
    age: float,
    buried_for: float | None,
    grace_seconds: float,
    min_dead_share: float,
) -> Verdict:
    """Decide about one pack. `age` and `buried_for` (None without a tombstone) are in seconds."""
    live = tuple(entry for entry in pack.entries if entry.digest in reachable)
    verdict = Verdict(pack, live)
    if not _is_worth_collecting(pack, live, min_dead_share):
        return evolve(verdict, revive=buried_for is not None)
    if buried_for is None:
        due = grace_seconds == 0
        return evolve(verdict, bury=age >= grace_seconds, delete=due)
    return evolve(verdict, delete=buried_for >= grace_seconds)


def collect(
    directory: PackDirectory,
    catalog: Catalog,
    reachable: Set[str],
    *,
    grace_seconds: float,
    min_dead_share: float,
    dry_run: bool,
) -> GarbageReport:
    """Judge every pack, then bury, revive, repack and delete. Content in `reachable` is never deleted."""
    with directory.collecting():
        listing = catalog.catch_up()
        verdicts = [
            judge(
                pack,
                reachable,
                age=_age(listing.packs[pack.name].changed_at),
                buried_for=_buried_for(listing, pack.name),
                grace_seconds=grace_seconds,
                min_dead_share=min_dead_share,
            )
            for pack in _readable(directory, listing)
        ]
        unreadable = tuple(sorted(listing.packs.keys() - {verdict.pack.name for verdict in verdicts}))
        kept = (
            () if dry_run else tuple(v.pack.name for v in verdicts if not _carry_out(directory, catalog, v))
        )
    done = [verdict for verdict in verdicts if verdict.pack.name not in kept]
    return GarbageReport(
        dry_run=dry_run,
        buried=tuple(v.pack.name for v in done if v.bury and not v.delete),
        revived=tuple(v.pack.name for v in done if v.revive),
        deleted=tuple(v.pack.name for v in done if v.delete),
        repacked=tuple(v.pack.name for v in done if v.delete and v.live),
        damaged=tuple(sorted((*unreadable, *kept))),
        freed_bytes=sum(v.freed_bytes for v in done if v.delete),
    )


def _carry_out(directory: PackDirectory, catalog: Catalog, verdict: Verdict) -> bool:
    """Return False when the pack has to stay because what is needed of it is damaged."""
    name = verdict.pack.name
    if verdict.revive:
        directory.revive(name)
    if verdict.bury:
        directory.bury(name)
        reach("vault.buried")
    if verdict.delete:
        if verdict.live:
            try:
                _move(directory, catalog, verdict)
            except IntegrityFailure as error:
                logger.warning("pack %s is kept: %s", name, error)
                return False
            reach("vault.repacked")
        catalog.delete(name)
    return True


def _move(directory: PackDirectory, catalog: Catalog, verdict: Verdict) -> None:
    contents = [stored_content(directory, verdict.pack.name, entry) for entry in verdict.live]
    catalog.record(write_pack(directory, contents))


def _is_worth_collecting(pack: Pack, live: tuple[Entry, ...], min_dead_share: float) -> bool:
    if not live:
        return True
    dead = pack.size - sum(entry.length for entry in live)
    return len(live) < len(pack.entries) and dead >= min_dead_share * pack.size


def _readable(directory: PackDirectory, listing: Listing) -> Iterator[Pack]:
    for name in sorted(listing.packs):
        try:
            yield read_pack(directory, name)
        except PackGoneError:
            continue
        except (IntegrityFailure, VaultError) as error:
            logger.warning("%s; it is not collected", error)


def _buried_for(listing: Listing, pack: str) -> float | None:
    tombstone = listing.tombstones.get(pack)
    return None if tombstone is None else _age(tombstone.changed_at)


def _age(changed_at: float) -> float:
    return max(0.0, time.time() - changed_at)
