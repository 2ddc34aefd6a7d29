"""Random number generators: Python's, NumPy's, torch's on the CPU and on every CUDA device."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from esper_es.projections.live.interrupts import uninterrupted


def capture_rng() -> dict[str, Any]:
    """Return the states of all generators, as plain values and tensors."""
    python = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=True)
    kind, keys, position, has_gauss, gauss = numpy_state
    state: dict[str, Any] = {
        "python": python,
        "numpy": (
            str(kind),
            torch.from_numpy(keys.astype(np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ),
        "torch": torch.get_rng_state(),
        "cuda": [],
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_rng(state: dict[str, Any]) -> None:
    """Set all generators to captured states; states of CUDA devices that are absent here are left out.

    An interrupt waits until all are set.
    """
    with uninterrupted():
        _restore(state)


def _restore(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available():
        for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(cuda_state.cpu(), device)


def missing_generators(state: dict[str, Any]) -> tuple[str, ...]:
    """Return the CUDA generators that captured states could not be put into, and those that they do not tell of."""
    saved, here = len(state["cuda"]), len(capture_rng()["cuda"])
    absent = [f"cuda:{device}: not here" for device in range(here, saved)]
    return (*absent, *(f"cuda:{device}: not in the capture" for device in range(saved, here)))


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Leave all generators as they were."""
    state = capture_rng()
    try:
        yield
    finally:
        restore_rng(state)
