"""Prove, in a process of its own, that a log says all of what a run was.

    python examples/prove.py runs/digits/seed-0

It knows nothing of the run but its log, its vault, and what the run wrote down while it lived. It rebuilds the
network at every version and compares. It exits with 1 on any difference, with 2 when there is nothing to prove.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from attrs import define, field
from digits_model import NAME  # the import registers the blueprint that the log names
from digits_record import Place, Record, read_record, sight_of
from digits_report import wide_console
from digits_task import Images, digits, use_one_thread
from rich.progress import track
from rich.table import Table

from esper_es import Engine, Envelope, EsperError, Replay, describe, facts

console = wide_console()


@define
class Check:
    """One claim, how often it was tested, and where it failed."""

    claim: str
    tested: int = 0
    failures: list[str] = field(factory=list)

    def expect(self, holds: bool, otherwise: str) -> None:
        """Test the claim once."""
        self.tested += 1
        if not holds:
            self.failures.append(otherwise)

    def found(self, findings: Iterable[object], tested: int) -> None:
        """Take over what another verification found."""
        self.tested += tested
        self.failures += map(str, findings)

    @property
    def holds(self) -> bool:
        return self.tested > 0 and not self.failures


def stored_checks(engine: Engine, history: tuple[Envelope, ...]) -> list[Check]:
    """Check that log and vault are as they were written."""
    stored = Check("facts: hashes, and links from each to the next")
    stored.found(engine.verify_facts(), len(history))
    tensors = Check("stored tensors: digests")
    tensors.found(engine.vault.verify(), len(engine.vault.digests()))
    return [stored, tensors]


def replayed_checks(
    engine: Engine, history: tuple[Envelope, ...], record: Record, images: Images
) -> list[Check]:
    """Rebuild the network at every version, and compare it with what the run wrote down."""
    structure = Check("architecture, at every version")
    exact = Check("exact versions: as the run saw them, and exact again")
    tensors = Check("tensors, byte by byte, at every exact version")
    predictions = Check("test logits, byte by byte, at every exact version")
    rollbacks = Check("rollbacks: the same as the version gone back to")
    restorable = engine.state(NAME).restorable
    exact.expect(
        restorable.keys() == record.sights.keys(),
        f"the run saw {sorted(record.sights)}, the log knows {sorted(restorable)}",
    )
    prints: dict[int, str] = {}
    for envelope in track(history, "replaying every version", console=console, transient=True):
        version = envelope.version
        model = engine.replay(NAME, version)
        structure.expect(
            describe(model).fingerprint == record.architectures.get(version), f"version {version} differs"
        )
        if version not in record.sights:
            continue
        lived, rebuilt = record.sights[version], sight_of(model, images)
        prints[version] = rebuilt.fingerprint
        replay = model.esper_replay
        exact.expect(isinstance(replay, Replay) and replay.exact, f"version {version}: {replay}")
        tensors.expect(lived.fingerprint == rebuilt.fingerprint, f"version {version} differs")
        predictions.expect(lived.logits == rebuilt.logits, f"version {version} predicts otherwise")
        if isinstance(envelope.fact, facts.RolledBack):
            target = envelope.fact.to_version
            rollbacks.expect(prints[version] == prints[target], f"version {version} is not version {target}")
    return [structure, exact, tensors, predictions, rollbacks]


def verdict_of(place: Place) -> bool:
    """Check everything, print the verdict, and return it."""
    record = read_record(place.record)
    with Engine(place.url) as engine:
        history = engine.history(NAME)
        checks = [*stored_checks(engine, history), *replayed_checks(engine, history, record, digits().test)]
    print_verdict(checks)
    return all(check.holds for check in checks)


def print_verdict(checks: list[Check]) -> None:
    table = Table(
        title=f"Proof by process {os.getpid()}: replayed from the log, compared with the live run",
        title_justify="left",
    )
    table.add_column("what was compared")
    table.add_column("tested", justify="right")
    table.add_column("differences", justify="right")
    table.add_column("verdict")
    for check in checks:
        verdict = "[green]same[/green]" if check.holds else "[red]DIFFERENT[/red]"
        table.add_row(check.claim, str(check.tested), str(len(check.failures)), verdict)
    console.print(table)
    for check in checks:
        for failure in check.failures:
            console.print(f"[red]{check.claim}:[/red] {failure}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Prove that a log says all of what a run was.")
    parser.add_argument("directory", type=Path, help="of the run, e.g. runs/digits/seed-0")
    place = Place(parser.parse_args().directory)
    missing = [str(path) for path in (place.log, place.vault, place.record) if not path.exists()]
    if missing:
        console.print(f"nothing to prove: {', '.join(missing)} not found; run examples/digits.py first")
        return 2
    use_one_thread()
    try:
        return 0 if verdict_of(place) else 1
    except EsperError as error:
        console.print(f"[red]no proof:[/red] {type(error).__name__}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
