"""Replays in a process that never saw the live models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from esper_es import Engine, fingerprint

from .outcomes import Version


@contextmanager
def elsewhere() -> Iterator[Executor]:
    """A fresh process to replay in."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
        yield process


def differing(url: str, versions: Sequence[Version]) -> list[str]:
    """Replay versions from a log; return what did not come back as it was."""
    from . import catalog  # noqa: F401  (registers the blueprints)

    with Engine(url) as engine:
        return [problem for version in versions if (problem := _problem(engine, version))]


def _problem(engine: Engine, version: Version) -> str:
    module = engine.replay(version.model, version.number)
    replay = module.esper_replay
    if not replay.exact:
        return f"version {version.number} of {version.model} is {replay.exactness}"
    same = fingerprint(module) == version.fingerprint
    return "" if same else f"version {version.number} of {version.model} came back different"
