"""Model libraries that are there or not: the optional extras that built-in blueprints need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from esper_es.domain.errors import ReplayError


def library(name: str) -> ModuleType:
    """Return a library of models, imported; its name is ours, never one from a log.

    Raises:
        ReplayError: naming the extra that brings it, if it can't be imported.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise ReplayError(f"the library {name!r} can't be imported: {error}") from error
        raise ReplayError(
            f"this model is built by the library {name!r}, which is not installed: pip install 'esper-es[{name}]'"
        ) from None
    except (ImportError, RuntimeError, OSError) as error:
        raise ReplayError(f"the library {name!r} can't be imported: {error}") from error
