"""Under which software and hardware facts are made."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from pathlib import Path

import torch
from torch import nn

from esper_es.domain.facts import Environment
from esper_es.projections.live.describe import devices_of
from esper_es.projections.live.names import dtype_name
from esper_es.release import package_version


@cache
def code_commit() -> str | None:
    """Return the git commit of the working directory, with ``+dirty`` when files differ; None outside git."""
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit}+dirty" if _git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=Path.cwd(), capture_output=True, text=True, timeout=5, check=True
    )
    return done.stdout.strip()


def environment_of(module: nn.Module) -> Environment:
    """Return the environment of this process for a model."""
    devices = devices_of(module)
    names = [torch.cuda.get_device_name(d) if d.type == "cuda" else str(d) for d in devices]
    return Environment(
        esper_es=package_version(),
        python=platform.python_version(),
        torch=torch.__version__,
        device=", ".join(names) or "cpu",
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        default_dtype=dtype_name(torch.get_default_dtype()),
        code_commit=code_commit(),
    )
