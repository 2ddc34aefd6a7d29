"""timm where torchvision is not: what ``import timm`` asks of torchvision, for the time of that import.

timm requires torchvision, and a torchvision loads only beside the build of torch that it was made for: the one that
an installer finds beside a CPU build of torch fails when it is imported. timm's models need one name of it, to
recognize frozen batch norms; everything else is needed by ``timm.data``, which reads images, and of which the
models need the constants only. So the Makefile installs timm without what it requires, and these two stand in
during the import. They are taken back at once: no other library sees a torchvision. Where there is a real one,
nothing of this happens.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from torch import nn


class FrozenBatchNorm2d(nn.Module):
    """Nobody makes one; timm only asks whether a module is one."""


def import_timm() -> ModuleType:
    """Import timm, beside a real torchvision or without one.

    Raises:
        ModuleNotFoundError: if there is no timm.
    """
    found = find_spec("timm")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("timm is not installed: pip install --no-deps timm", name="timm")
    if "timm" in sys.modules or find_spec("torchvision") is not None:
        return import_module("timm")
    stand_ins = _torchvision() | _timm_data(Path(found.origin).parent / "data" / "constants.py")
    sys.modules.update(stand_ins)
    try:
        return import_module("timm")
    finally:
        for name in stand_ins:
            del sys.modules[name]


def _torchvision() -> dict[str, ModuleType]:
    names = ("torchvision", "torchvision.ops", "torchvision.ops.misc")
    modules = {name: ModuleType(name) for name in names}
    modules["torchvision.ops.misc"].FrozenBatchNorm2d = FrozenBatchNorm2d
    return modules


def _timm_data(constants: Path) -> dict[str, ModuleType]:
    name = "timm.data"
    spec = spec_from_file_location(name, constants)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: module}
