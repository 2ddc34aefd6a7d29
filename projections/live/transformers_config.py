"""Which configurations of Hugging Face models a log may carry.

A configuration says sizes. Some entries make the library fetch something instead: code beside a checkpoint, kernels
or another configuration from the network, weights at a path. Those are refused wherever they stand, before the
library sees any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from esper_es.domain.canonical import Json
from esper_es.domain.errors import ReplayError

FETCHING: Mapping[str, str] = {
    "auto_map": "names code beside a checkpoint",
    "trust_remote_code": "asks for code beside a checkpoint",
    "custom_pipelines": "names code beside a checkpoint",
    "quantization_config": "asks for quantized weights, which a fresh model has not",
    "backbone": "names another model, which would be looked up; describe it in backbone_config",
    "use_pretrained_backbone": "asks for the weights of another model",
    "use_kernels": "asks for kernels from the network",
    "kernel_config": "asks for kernels from the network",
    "attn_implementation": "belongs beside the config, as blueprint_args['attn_implementation']",
    "experts_implementation": "may name a kernel from the network",
}
"""Entries that must be empty, and why."""

WRAPPERS = ("timm_backbone", "timm_wrapper")
"""Families that hand an architecture's name on to another library."""

_FLOAT = "__float__"


def check_config(config: object) -> None:
    """Check that a configuration only says what the model is made of.

    Raises:
        ReplayError: naming the first entry that does not belong, and why.
    """
    if not isinstance(config, Mapping):
        raise ReplayError(f"a config is a dictionary, got {type(config).__name__}")
    for path, key, value in _entries(config, "config"):
        if not isinstance(key, str):
            raise ReplayError(f"{path} must be a string, as JSON's keys are")
        if key == "model_type" and value in WRAPPERS:
            raise ReplayError(f"{path} is {value!r}, a wrapper around models of timm; attach that one")
        if value in (None, False, "", {}) or key == _FLOAT:
            continue
        if key in FETCHING:
            raise ReplayError(f"{path} {FETCHING[key]}; leave it out")
        if key.endswith("name_or_path"):
            raise ReplayError(
                f"{path} names a checkpoint, and a log holds the weights themselves; leave it out"
            )
        if key.startswith("_"):
            raise ReplayError(f"{path} is internal to the library; leave it out")


def _entries(config: Mapping[Any, Any], path: str) -> Iterator[tuple[str, object, object]]:
    for key, value in config.items():
        here = f"{path}[{key!r}]"
        yield here, key, value
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, Mapping):
                yield from _entries(item, here)


def storable(config: Mapping[str, Json]) -> dict[str, Json]:
    """Return a configuration without the library's notes on where it came from, and without empty entries of
    those that ``check_config`` refuses."""
    return {
        key: _each(value, storable)
        for key, value in config.items()
        if not (key in FETCHING and not value) and not (key.startswith("_") and key != _FLOAT)
    }


def _each(value: Json, of_mapping: Any) -> Json:
    if isinstance(value, Mapping):
        return of_mapping(value)
    if isinstance(value, (list, tuple)):
        return [_each(item, of_mapping) for item in value]
    return value


def with_floats(value: Json) -> Json:
    """Return a configuration's value with the infinities that its JSON spells ``{"__float__": "Infinity"}``."""
    if isinstance(value, Mapping):
        if set(value) == {_FLOAT} and value[_FLOAT] in ("Infinity", "-Infinity", "NaN"):
            return float(value[_FLOAT])
        return {key: with_floats(item) for key, item in value.items()}
    return [with_floats(item) for item in value] if isinstance(value, list) else value
