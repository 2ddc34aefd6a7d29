"""Importing the user's own code: only what the command line names, and never what a log names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

from esper_es.domain.errors import UsageError


def import_modules(names: Iterable[str]) -> None:
    """Import modules, so that the blueprints, layer kinds and kernels in them are registered.

    Like ``python -m``, it finds modules in the current directory too.

    Raises:
        UsageError: if one can't be imported.
    """
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise UsageError(f"--import takes the dotted name of a module, e.g. project.models, not {name!r}")
        directory = str(Path.cwd())
        if directory not in sys.path:
            sys.path.insert(0, directory)
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            raise UsageError(
                f"--import {name} failed: {type(error).__name__}: {error}; modules are looked for in this "
                "directory and in the installed packages"
            ) from error
