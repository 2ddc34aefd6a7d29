"""The built-in blueprint ``"timm"``: a model of that library by the name and arguments of its ``create_model``."""

from __future__ import annotations

import sys

from torch import nn

from esper_es.domain.canonical import Json, canonical_bytes
from esper_es.domain.errors import ReplayError, UsageError
from esper_es.projections.live.hosting import original_class
from esper_es.projections.live.library import library

NAME = "timm"
LOADING = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_strict",
    "pretrained_filter_fn",
    "pretrained_model_args",
    "checkpoint_path",
    "cache_dir",
    "pruned",
)
"""Arguments about weights and where to get them, which a log holds itself."""


def build(model_name: str, **arguments: Json) -> nn.Module:
    """Build a model of the library, freshly initialised.

    Args:
        model_name: as ``timm.list_models()`` has it, with or without the tag of its weights.
        **arguments: of ``timm.create_model``; JSON.

    Raises:
        ReplayError: if the library is missing, the name is none of its models, or weights are asked for.
    """
    timm = library(NAME)
    name, _, tag = model_name.partition(".") if isinstance(model_name, str) else ("", "", "")
    known = isinstance(model_name, str) and timm.is_model(name)
    if not known or (tag and model_name not in timm.list_pretrained(f"{name}.*")):
        raise ReplayError(
            f"timm {timm.__version__} has no model {model_name!r}; give a name of timm.list_models(). Hubs and "
            "paths are not read from a log"
        )
    if loading := sorted(set(arguments) & set(LOADING)):
        raise ReplayError(f"{', '.join(loading)}: a log holds the weights themselves; leave it out")
    model: nn.Module = timm.create_model(model_name, pretrained=False, **arguments)
    return model


def arguments_of(module: nn.Module) -> dict[str, Json] | None:
    """Return the blueprint's arguments for a live model, or None if ``create_model`` did not make it.

    Raises:
        UsageError: if it was made with arguments that no log can hold.
    """
    made_from = getattr(module, "pretrained_cfg", None)
    if NAME not in sys.modules or not original_class(module).__module__.startswith(f"{NAME}."):
        return None
    if not isinstance(made_from, dict) or not made_from.get("architecture"):
        return None
    arguments = {
        key: value for key, value in getattr(module, "_model_args", {}).items() if key not in LOADING
    }
    if isinstance(classes := getattr(module, "num_classes", None), int):
        arguments["num_classes"] = classes
    arguments["model_name"] = made_from["architecture"]
    try:
        canonical_bytes(arguments)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"this model of timm was made with arguments that are not JSON ({error}), so a replay could not repeat "
            "them: register a function that builds it, with @esper_es.blueprint"
        ) from None
    return arguments
