"""What a run writes down beside its log, as it goes, for another process to compare with."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from attrs import define, field, frozen
from digits_task import Images, logits_of
from torch import nn

from esper_es import Engine, Envelope, ModelState, Run, describe, fingerprint, folded


@frozen
class Place:
    """Where a run is kept.

    Attributes:
        directory: holds all of it, and nothing else is touched.
    """

    directory: Path

    @property
    def log(self) -> Path:
        return self.directory / "log.db"

    @property
    def vault(self) -> Path:
        """Where the engine keeps the tensors of a log in SQLite unless it is told otherwise."""
        return self.log.with_suffix(".vault")

    @property
    def url(self) -> str:
        return f"sqlite:///{self.log}"

    @property
    def record(self) -> Path:
        return self.directory / "record.jsonl"

    def clear(self) -> None:
        """Delete an earlier run."""
        self.directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.vault, ignore_errors=True)
        for path in (self.log, *self.directory.glob("log.db-*"), self.record):
            path.unlink(missing_ok=True)


@frozen
class Sight:
    """A network as it was at one moment.

    Attributes:
        fingerprint: of its structure and of every byte of its tensors.
        logits: bytes of the logits ``(N, 10)`` of the test images, float32.
    """

    fingerprint: str
    logits: bytes


def sight_of(model: nn.Module, images: Images) -> Sight:
    """Look at a network."""
    return Sight(fingerprint(model), logits_of(model, images).numpy().tobytes())


@define(eq=False)
class Recorder:
    """Looks at the live network whenever facts are committed; a subscriber of the engine.

    It writes JSON lines: for every version the fingerprint of the architecture, and for every version that can
    be restored exactly what the network was.
    """

    run: Run
    images: Images
    path: Path
    _state: ModelState | None = field(default=None, init=False)
    _before: Sight = field(init=False)
    _seen: set[int] = field(factory=set, init=False)

    @classmethod
    def of(cls, engine: Engine, run: Run, images: Images, path: Path) -> Self:
        """Take in what the log of an untrained network holds already."""
        recorder = cls(run, images, path)
        recorder.look()
        for envelope in engine.history(run.name):
            recorder(envelope)
        return recorder

    def look(self) -> None:
        """Look at the network before a change that may store what it was."""
        self._before = sight_of(self.run.model, self.images)

    def __call__(self, envelope: Envelope) -> None:
        """Take one fact in. Facts of one transaction come one by one, after all of them were committed."""
        self._state = folded(self._state, [envelope])
        if envelope.version != self.run.version:
            self._write(envelope.version, architecture=self._state.architecture.fingerprint)
            return
        self._write(envelope.version, architecture=describe(self.run.model).fingerprint)
        before = self._before
        self.look()
        self._write_exact(self._state, before)

    def _write_exact(self, state: ModelState, before: Sight) -> None:
        """Write what the network was at the versions that have just become exact.

        Those that share the newest version's capture and edits are what it is now; the others are the capture
        of what it was before.
        """
        newest = state.restorable.get(state.version)
        for version in sorted(state.restorable.keys() - self._seen):
            source = state.restorable[version]
            is_now = newest is not None and (source.capture, source.edits_of) == (
                newest.capture,
                newest.edits_of,
            )
            sight = self._before if is_now else before
            logits = base64.b64encode(sight.logits).decode()
            self._write(version, fingerprint=sight.fingerprint, logits=logits)
            self._seen.add(version)

    def _write(self, version: int, **entries: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"version": version, **entries}) + "\n")


@frozen
class Record:
    """What a run wrote down.

    Attributes:
        architectures: fingerprint of the architecture of every version.
        sights: what the network was, by version, where that can be restored exactly.
    """

    architectures: Mapping[int, str]
    sights: Mapping[int, Sight]


def read_record(path: Path) -> Record:
    """Read what a run wrote down."""
    architectures: dict[int, str] = {}
    sights: dict[int, Sight] = {}
    for entry in _entries(path):
        version = int(entry["version"])
        if "architecture" in entry:
            architectures[version] = entry["architecture"]
        else:
            sights[version] = Sight(entry["fingerprint"], base64.b64decode(entry["logits"]))
    return Record(architectures, sights)


def _entries(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)
