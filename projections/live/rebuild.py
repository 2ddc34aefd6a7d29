"""A fresh module from the log: the base model, then the edits in order."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from esper_es.domain.edits import Edit
from esper_es.domain.errors import ReplayError
from esper_es.domain.facts import BaseModel
from esper_es.projections.live.apply import apply_edits
from esper_es.projections.live.blueprints import built_by
from esper_es.projections.live.build import build, take_dtypes
from esper_es.projections.live.describe import describe
from esper_es.projections.live.initializers import seeded
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.live import Live
from esper_es.projections.live.material import Material


def base_module(base: BaseModel, seed: int = 0) -> nn.Module:
    """Build the model as it was at birth, on the CPU; its bytes depend on ``seed`` only.

    Raises:
        ReplayError: if it can't be built, or comes out with another architecture than the log recorded.
    """
    if base.blueprint is None:
        return build(base.architecture, seed)
    name, arguments = base.blueprint, base.arguments
    module = seeded(seed, lambda: built_by(name, arguments))
    take_dtypes(module, base.architecture)
    found = describe(module)
    if not found.fits(base.architecture):
        differing = sorted(
            path or "(root)"
            for path in {*found.nodes, *base.architecture.nodes}
            if found.nodes.get(path) != base.architecture.nodes.get(path)
        )
        raise ReplayError(
            f"blueprint {name!r} builds another architecture now than the log recorded; "
            f"modules that differ: {', '.join(differing[:5])}"
        )
    return module


def follow(module: nn.Module, edits: Iterable[Edit], material: Material) -> None:
    """Apply edits to a module that has no optimizer.

    Raises:
        ReplayError: if an edit does not fit.
    """
    try:
        apply_edits(Live(module), edits, material, Journal())
    except (KeyError, ValueError) as error:
        raise ReplayError(f"an edit of the log does not fit the model: {error}") from error
