"""The command line: what a log says, read, checked, and rolled back, in git's spirit."""

from esper_es.cli.program import main

__all__ = ["main"]
