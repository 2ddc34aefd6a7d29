"""The built-in blueprint ``"transformers"``: a model class of that library by name, and its configuration."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

from esper_es.domain.canonical import Json
from esper_es.domain.errors import ReplayError
from esper_es.projections.live.hosting import original_class
from esper_es.projections.live.library import library
from esper_es.projections.live.transformers_config import WRAPPERS, check_config, storable, with_floats

NAME = "transformers"
ATTENTION = ("eager", "sdpa", "flex_attention")
"""Implementations that are torch's; others come as compiled kernels, some from the network."""

_HOME = re.compile(r"(?:transformers\.)?models\.(?P<family>\w+)\.modeling_\w+")


Attention = str | Mapping[str, str]
"""An implementation for the whole model, or one for each of the configurations inside its own, which goes by ``""``."""


def build(
    architecture: str, config: Mapping[str, Json], attn_implementation: Attention | None = None
) -> nn.Module:
    """Build a model of the library, freshly initialised.

    Args:
        architecture: name of a model class of ``transformers``, such as ``"GPT2LMHeadModel"``.
        config: for its configuration class; JSON. What is left out has the library's default.
        attn_implementation: ``"eager"``, ``"sdpa"`` or ``"flex_attention"``, or one of these for each of the model's
            configurations by its key; the library's choice by default.

    Raises:
        ReplayError: if the library is missing, the class is none of its models, or the config asks for more.
    """
    model_class = _model_class(architecture)
    check_config(config)
    _check_attention(attn_implementation)
    configuration = model_class.config_class.from_dict(with_floats(dict(config)))
    if attn_implementation is not None:
        configuration._attn_implementation = (
            attn_implementation if isinstance(attn_implementation, str) else dict(attn_implementation)
        )
    model: nn.Module = model_class(configuration)
    return model


def _check_attention(asked: object) -> None:
    for each in asked.values() if isinstance(asked, Mapping) else [asked]:
        if each not in (None, *ATTENTION):
            raise ReplayError(f"attn_implementation is one of {', '.join(ATTENTION)}, got {each!r}")


def _attention_of(config: Any) -> Attention | None:
    """Return what a configuration and those inside it compute attention with: a backbone may do otherwise."""
    inside = {key: getattr(config, key, None) for key in config.sub_configs}
    found = {
        key: getattr(each, "_attn_implementation", None)
        for key, each in {"": config, **inside}.items()
        if each is not None
    }
    known = {key: value for key, value in found.items() if value in ATTENTION}
    own = known.get("")
    return own if set(found.values()) == {own} else known or None


def _model_class(architecture: object) -> Any:
    """Return a model class by name, from the library's own table of what it holds; nothing else is imported."""
    transformers = library(NAME)
    table: Mapping[object, str] = getattr(transformers, "_class_to_module", {})
    if isinstance(architecture, str) and _is_model_module(table.get(architecture, "")):
        found: Any = getattr(transformers, architecture)
        is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
        if is_model and found.config_class is not None:
            return found
    raise ReplayError(
        f"transformers {transformers.__version__} has no model class {architecture!r}; give the exact name of a "
        "class that takes a config, such as 'GPT2LMHeadModel'. Auto classes are not built from a log"
    )


def _is_model_module(name: str) -> bool:
    home = _HOME.fullmatch(name)
    return home is not None and home["family"] not in ("auto", *WRAPPERS)


def arguments_of(module: nn.Module) -> dict[str, Json] | None:
    """Return the blueprint's arguments for a live model, or None if it is none of the library's own classes."""
    transformers = sys.modules.get(NAME)
    model_class: Any = original_class(module)
    if transformers is None or not issubclass(model_class, transformers.PreTrainedModel):
        return None
    config: Any = module.config
    if not _is_model_module(model_class.__module__) or type(config) is not model_class.config_class:
        return None
    arguments: dict[str, Json] = {
        "architecture": model_class.__name__,
        "config": storable(json.loads(config.to_json_string(use_diff=False))),
    }
    attention = _attention_of(config)
    if attention is not None:
        arguments["attn_implementation"] = attention if isinstance(attention, str) else dict(attention)
    return arguments
