"""The configuration of a transformers model, kept true where it can express a changed width.

Whether it can is found out by building the model from it, on the meta device: all shapes and numbers must come out
as the surgery leaves them.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import torch
from attrs import frozen
from torch import nn

from esper_es.domain.architecture import Architecture, join_path
from esper_es.domain.edits import Edit, SetAttribute
from esper_es.domain.evolution import evolved
from esper_es.effects import output_difference
from esper_es.planning.attributes.options import counted
from esper_es.planning.observation import observe
from esper_es.planning.resizing import Resizing
from esper_es.planning.scene import Scene
from esper_es.planning.trial import tolerance, tried
from esper_es.planning.widths.streams import EPSILONS
from esper_es.projections.live.hosting import original_class
from esper_es.projections.live.names import named_tensors
from esper_es.projections.live.rng import preserved_rng

logger = logging.getLogger(__name__)

BUILDS = 24
"""Configurations that are built before none counts as right."""

_OTHER = re.compile(
    r"vocab|position|layer|token|_id$|window|patch|image|label|pad|bucket|distance|expert|max_"
)
_INNER = re.compile(r"inner|intermediate|ffn")

Numbers = Mapping[tuple[str, str], float]
"""Plain numbers of modules, by path and attribute."""


@frozen(eq=False)
class ConfigUpdate:
    """What becomes of a model's configuration.

    Attributes:
        edits: that keep it true; none where there is no configuration, or it can't express the change.
        values: new values by key.
        note: why it can't express the change; empty where it can, or where there is none.
    """

    edits: tuple[SetAttribute, ...] = ()
    values: Mapping[str, Any] = {}
    note: str = ""


def config_update(
    scene: Scene, resizings: Sequence[Resizing], edits: Sequence[Edit], tensors: Mapping[str, torch.Tensor]
) -> ConfigUpdate:
    """Find the values with which a transformers model's configuration describes it after ``edits``.

    Args:
        scene: the model before; its copy is as before afterwards.
        resizings: what changes.
        edits: of the surgery.
        tensors: that the edits name.
    """
    path = _configured(scene.shadow)
    if path is None:
        return ConfigUpdate()
    holder: Any = scene.shadow.get_submodule(path)
    shapes = _specified(evolved(scene.state.architecture, edits), path)
    if differing := _differing_layers(_specified(scene.state.base.architecture, path), shapes):
        return ConfigUpdate(note=f"layers differ now, which the configuration can't express: {differing}")
    before = _built(holder, {})
    if before is None:
        return ConfigUpdate(note="the model's class can't be built from its configuration")
    numbers = tried(
        scene.shadow, [e for e in edits if isinstance(e, SetAttribute)], {}, partial(_numbers, holder)
    )
    known = _disagreements(_numbers(holder), _numbers(before))
    implied = _implied(holder, _shapes(before))
    config = {**vars(holder.config), **implied}
    always = {**implied, **_epsilons(config, numbers)}
    for choice in _choices(list(dict.fromkeys(_options(config, resizings, scene)))):
        wanted = {**always, **choice}
        values = {key: value for key, value in wanted.items() if vars(holder.config)[key] != value}
        twin = _built(holder, values)
        if twin is None or _shapes(twin) != shapes:
            continue
        odd = _disagreements(numbers, _numbers(twin)) - known
        adopted = [(place, value) for place in sorted(odd) if type(value := _numbers(twin)[place]) is int]
        if len(adopted) == len(odd):
            own = (SetAttribute(join_path(path, at), name, int(value)) for (at, name), value in adopted)
            update = ConfigUpdate((*_config_edits(holder, path, values), *own), values)
            if _same_function(scene, edits, tensors, update):
                return update
            return ConfigUpdate(
                note=f"the model computes with its configuration: {values} would change its outputs"
            )
    return ConfigUpdate(note="no values of the configuration build a model of these shapes and numbers")


def _same_function(
    scene: Scene, edits: Sequence[Edit], tensors: Mapping[str, torch.Tensor], update: ConfigUpdate
) -> bool:
    """Say whether the copy returns the same with the updated configuration as without."""
    run = partial(_outputs, scene)
    without = tried(scene.shadow, edits, tensors, run)
    changed = output_difference(without, tried(scene.shadow, (*edits, *update.edits), tensors, run))
    return changed is not None and changed <= tolerance(scene)


def _outputs(scene: Scene) -> tuple[torch.Tensor, ...]:
    return observe(scene.shadow, scene.examples).outputs


def _configured(root: nn.Module) -> str | None:
    """Path of the outermost model of transformers."""
    for path, module in root.named_modules():
        if any(c.__name__ == "PreTrainedModel" for c in type(module).__mro__) and hasattr(module, "config"):
            found: str = path
            return found
    return None


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor, _ in named_tensors(module)}


def _numbers(module: nn.Module) -> dict[tuple[str, str], float]:
    return {
        (path, name): value
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if type(value) in (int, float) and not name.startswith("_")
    }


def _disagreements(one: Numbers, other: Numbers) -> set[tuple[str, str]]:
    return {place for place in one.keys() & other.keys() if one[place] != other[place]}


def _specified(architecture: Architecture, path: str) -> dict[str, tuple[int, ...]]:
    return {name: spec.shape for name, spec in architecture.subtree(path).tensors()}


def _differing_layers(before: Mapping[str, tuple[int, ...]], after: Mapping[str, tuple[int, ...]]) -> str:
    """Names of tensors, numbers apart the same, that had one shape at birth and have several now."""
    kinds: dict[str, list[str]] = {}
    for name in after:
        kinds.setdefault(re.sub(r"\.\d+\.", ".*.", name), []).append(name)
    for names in kinds.values():
        if len({before.get(name) for name in names}) == 1 < len({after[name] for name in names}):
            return ", ".join(f"{name} {list(after[name])}" for name in names[:3])
    return ""


def _choices(options: Sequence[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    """Values that could describe the change, few at a time first; a bounded number."""
    tries = 0
    for size in range(1, min(len(options), 3) + 1):
        for choice in combinations(options, size):
            if len(dict(choice)) == size:
                if tries == BUILDS:
                    return
                tries += 1
                yield dict(choice)


def _options(
    config: Mapping[str, Any], resizings: Sequence[Resizing], scene: Scene
) -> Iterator[tuple[str, Any]]:
    base = dict(scene.state.base.architecture.tensors())
    pairs = {pair for r in resizings for pair in counted(r)}
    for r in resizings:
        spec = base.get(r.member.tensor)
        if spec is not None and r.member.dim < len(spec.shape):
            pairs.add((spec.shape[r.member.dim], r.new_size))
    for key, value in config.items():
        if _OTHER.search(key) or key.startswith("_"):
            continue
        for old, new in sorted(pairs):
            if type(value) is int and value == old and old != new:
                yield key, new
            elif (
                type(value) is int and "head" in key and "dim" not in key and old < value and value % old == 0
            ):
                yield key, value // old * new


def _implied(holder: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Values that stand for None: sizes of inner layers that follow from others as long as nobody says them."""
    keys = [key for key, value in vars(holder.config).items() if value is None and _INNER.search(key)]
    sizes = sorted({size for shape in shapes.values() if len(shape) == 2 for size in shape}, reverse=True)
    implied: dict[str, int] = {}
    for key in keys:
        for size in sizes[:8]:
            twin = _built(holder, {key: size})
            if twin is not None and _shapes(twin) == shapes:
                implied[key] = size
                break
    return implied


def _epsilons(config: Mapping[str, Any], numbers: Numbers) -> dict[str, float]:
    """The epsilon that all norms have now, for the key of the configuration that says it."""
    found = {value for (_, name), value in numbers.items() if name in EPSILONS and type(value) is float}
    keys = [key for key, value in config.items() if "eps" in key and type(value) is float]
    return dict.fromkeys(keys, found.pop()) if len(found) == 1 and len(keys) == 1 else {}


def _built(holder: Any, values: Mapping[str, Any]) -> nn.Module | None:
    config = copy.deepcopy(holder.config)
    vars(config).update(values)
    try:
        with preserved_rng(), torch.device("meta"):
            built: nn.Module = original_class(holder)(config)
    except Exception as error:  # noqa: BLE001  (a library's own checks raise what they like)
        logger.debug("a configuration with %r builds no model: %s", dict(values), error)
        return None
    return built


def _config_edits(holder: nn.Module, path: str, values: Mapping[str, Any]) -> Iterator[SetAttribute]:
    """Set the values in every configuration object of the model that has the old ones: some models copy theirs."""
    old = {key: vars(holder.config)[key] for key in values}
    seen: set[int] = set()
    for name, module in holder.named_modules():
        config = vars(module).get("config")
        if config is None or id(config) in seen:
            continue
        seen.add(id(config))
        for key, value in values.items():
            if vars(config).get(key) == old[key]:
                yield SetAttribute(join_path(path, name), f"config.{key}", value)
