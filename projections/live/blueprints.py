"""Blueprints: functions, registered by name, that build a model from plain arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from esper_es.domain.canonical import Json
from esper_es.domain.errors import ReplayError, UsageError

Builder = Callable[..., nn.Module]

_BLUEPRINTS: dict[str, Builder] = {}


def blueprint(name: str) -> Callable[[Builder], Builder]:
    """Register a function that builds a model, under a name that a log may use.

    The function takes JSON values as keyword arguments and must always build the same architecture from the
    same arguments.

    Raises:
        UsageError: if another function has the name.
    """

    def register(builder: Builder) -> Builder:
        known = _BLUEPRINTS.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (
            builder.__module__,
            builder.__qualname__,
        ):
            raise UsageError(f"blueprint {name!r} is registered already, as {known.__qualname__}")
        _BLUEPRINTS[name] = builder
        return builder

    return register


def unregister(name: str) -> None:
    """Forget a blueprint; nothing happens if it is unknown."""
    _BLUEPRINTS.pop(name, None)


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
    except Exception as error:
        raise ReplayError(f"blueprint {name!r} failed with arguments {dict(arguments)!r}: {error}") from error
    if not isinstance(module, nn.Module):
        raise ReplayError(f"blueprint {name!r} returned a {type(module).__name__}, not an nn.Module")
    return module
