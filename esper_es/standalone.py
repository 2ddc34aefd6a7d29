"""A session without an engine: one model, its log and its tensors in memory."""

from __future__ import annotations

import copy
import itertools
import weakref

from torch import nn

from esper_es.attaching import Terms, attached
from esper_es.domain.constraints import SurgeryConstraints
from esper_es.domain.envelope import Cause
from esper_es.domain.errors import UsageError
from esper_es.ledger.database import open_database
from esper_es.ledger.log import Log
from esper_es.projections.audit import project
from esper_es.projections.live.blueprints import blueprint, unregister
from esper_es.projections.live.live import Live
from esper_es.session import Publisher, Session
from esper_es.shadow import shadow_of
from esper_es.vault import Vault

_COPIES = itertools.count()


class Borrowed(Live):
    """A model that lives only as long as others hold it."""

    __slots__ = ("_borrowed",)
    _borrowed: weakref.ref[nn.Module]

    def __init__(self, module: nn.Module) -> None:
        lent = Live(module)
        for name in ("optimizer", "scheduler", "scaler", "followers"):
            object.__setattr__(self, name, getattr(lent, name))
        object.__setattr__(self, "_borrowed", weakref.ref(module))

    @property
    def module(self) -> nn.Module:
        """The model.

        Raises:
            UsageError: if nobody holds it any more.
        """
        module: nn.Module | None = self._borrowed()
        if module is None:
            raise UsageError("the model of this surgeon is gone; give it one that you hold")
        return module


def in_memory_session(
    model: nn.Module, example_inputs: object, constraints: SurgeryConstraints | None
) -> Session:
    """Attach a model, of whatever classes, to a log that lives as long as the session.

    Raises:
        UsageError: if the model can't be copied or run.
    """
    terms = Terms(
        blueprint=_blueprint_of_a_copy(model),
        blueprint_args={},
        constraints=constraints,
        capture=None,
        watch=None,
        lifecycle=None,
    )
    log = Log(open_database(":memory:"), [project])
    live = Borrowed(model)
    return attached(log, Vault.in_memory(), Publisher(), live, example_inputs, "model", terms, Cause())


def _blueprint_of_a_copy(model: nn.Module) -> str:
    """Register a blueprint that copies the model as it is now, for as long as the model lives."""
    name = f"memory/{next(_COPIES)}"
    pristine = shadow_of(model)
    blueprint(name)(lambda: copy.deepcopy(pristine))
    weakref.finalize(model, unregister, name)
    return name
