"""Commands that need no tensors do not wait for torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ("--help", "log", "show 6", "models", "tree", "diff 2 6", "blame 0", "audit", "verify --log-only")

RUN = """
import sys
from esper_es.cli import main
sys.argv = ["esper-es", *sys.argv[1].split()]
try:
    main()
except SystemExit as stop:
    sys.exit(f"exit code {stop.code}" if stop.code else "torch" if "torch" in sys.modules else 0)
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_reads_no_tensors_does_not_load_torch(command: str, directory: Path) -> None:
    done = subprocess.run([sys.executable, "-c", RUN, command], cwd=directory, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
