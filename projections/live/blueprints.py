"""Blueprints: functions, registered by name, that build a model from plain arguments.

Two are built in, for the models of two libraries; they need no code of the user's.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from esper_es.domain.canonical import Json
from esper_es.domain.errors import ReplayError, UsageError
from esper_es.projections.live import timm_models, transformers_models

Builder = Callable[..., nn.Module]

_BUILT_IN: Mapping[str, Builder] = {
    transformers_models.NAME: transformers_models.build,
    timm_models.NAME: timm_models.build,
}
_BLUEPRINTS: dict[str, Builder] = dict(_BUILT_IN)


def blueprint(name: str) -> Callable[[Builder], Builder]:
    """Register a function that builds a model, under a name that a log may use.

    The function takes JSON values as keyword arguments and must always build the same architecture from the
    same arguments.

    Raises:
        UsageError: if it is no name, or another function has it.
    """
    if not isinstance(name, str) or not name:
        raise UsageError(f"a blueprint goes by a name, got {name!r}")

    def register(builder: Builder) -> Builder:
        known = _BLUEPRINTS.get(name)
        if known is not None and _origin(known) != _origin(builder):
            raise UsageError(f"blueprint {name!r} is registered already, as {_origin(known)[1]}")
        _BLUEPRINTS[name] = builder
        return builder

    return register


def _origin(builder: Builder) -> tuple[str, str]:
    """Return the module and name of what stands behind a builder, which a reloaded module registers again."""
    if isinstance(builder, partial):
        return _origin(builder.func)
    return builder.__module__, getattr(builder, "__qualname__", type(builder).__qualname__)


def is_built_in(name: str) -> bool:
    """Say whether a blueprint needs no code of the user's."""
    return name in _BUILT_IN


def unregister(name: str) -> None:
    """Forget a blueprint; nothing happens if it is unknown or built in."""
    if not is_built_in(name):
        _BLUEPRINTS.pop(name, None)


def recognized(module: nn.Module) -> tuple[str, dict[str, Json]] | None:
    """Return the name and the arguments of the built-in blueprint that a live model says it was made by, if any.

    Nothing is checked: what is built from them may have another architecture.

    Raises:
        UsageError: if a library's model was made with arguments that no log can hold.
    """
    for source in (transformers_models, timm_models):
        arguments = source.arguments_of(module)
        if arguments is not None:
            return source.NAME, arguments
    return None


def built_by(name: str, arguments: Mapping[str, Json]) -> nn.Module:
    """Build a model by a registered blueprint.

    Raises:
        ReplayError: if the name is unknown here, or the function fails.
    """
    builder = _BLUEPRINTS.get(name)
    if builder is None:
        known = ", ".join(sorted(_BLUEPRINTS)) or "none"
        raise ReplayError(
            f"the log names blueprint {name!r}, which this program has not registered (registered: {known}); "
            f"import the code that holds @esper_es.blueprint({name!r})"
        )
    try:
        module = builder(**arguments)
    except ReplayError:
        raise
    except Exception as error:
        given = reprlib.repr(dict(arguments))
        raise ReplayError(f"blueprint {name!r} failed with arguments {given}: {error}") from error
    if not isinstance(module, nn.Module):
        raise ReplayError(f"blueprint {name!r} returned a {type(module).__name__}, not an nn.Module")
    return module
