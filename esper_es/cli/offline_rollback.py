"""Going back without the live model: a fact for the next ``attach`` to follow.

Only a live run can restore an optimizer. What can be done without one is to check that everything a restore
needs is stored, and to record the rollback: ``Engine.attach`` brings the model, optimizer, scheduler, scaler and
RNG that it is given to the newest version of the log, which then is the target.

That holds for versions whose whole state was captured. A version that is a surgery on top of a capture has an
optimizer state that nobody stored; a live run works it out, and can go there.
"""

from __future__ import annotations

from attrs import frozen

from esper_es.cli.captures import CaptureReader
from esper_es.domain.envelope import Cause
from esper_es.domain.errors import Refused, VaultError
from esper_es.domain.facts import RolledBack
from esper_es.domain.model import Moment, recorded, restorable
from esper_es.domain.state import CapturePoint, ModelState, Restorable
from esper_es.ledger.log import Log
from esper_es.session import now
from esper_es.vault import Vault


@frozen
class RollbackPlan:
    """A rollback that can be recorded.

    Attributes:
        state: of the model now.
        target: how the version to go back to is restored.
        capture: the capture that holds it.
        undone: versions of the changes that led here and not there.
        epochs: of training that are given up.
        steps: of training that are given up.
    """

    state: ModelState
    target: Restorable
    capture: CapturePoint
    undone: tuple[int, ...]
    epochs: int
    steps: int

    @property
    def way_back(self) -> str:
        """Who can go back to the version that is left: ``"offline"``, ``"live"`` (a live run only) or ``"none"``."""
        left = self.state.restorable.get(self.state.version)
        if left is None:
            return "none"
        return "live" if left.edits_of else "offline"


def plan_rollback(state: ModelState, to_version: int) -> RollbackPlan:
    """Work out what a rollback would do.

    Raises:
        Refused: if the version is the newest, was not captured, or is no capture by itself.
    """
    target = restorable(state, to_version)
    if to_version == state.version:
        raise Refused(f"version {to_version} is the newest: there is nothing to roll back", "rollback")
    if target.edits_of:
        raise Refused(
            f"version {to_version} is a surgery on top of the capture of version {target.capture}; the optimizer "
            f"state after it exists only in a live run. Go back to {_captured(state, to_version)} instead, or "
            f"attach the model and call run.rollback({to_version})",
            "rollback",
        )
    return RollbackPlan(
        state=state,
        target=target,
        capture=state.captures[target.capture],
        undone=tuple(v for v in state.lineage.edits_of if v not in target.lineage.edits_of),
        epochs=max(state.lineage.trained_epochs - target.lineage.trained_epochs, 0),
        steps=max(state.lineage.trained_steps - target.lineage.trained_steps, 0),
    )


def _captured(state: ModelState, version: int) -> str:
    """Name the versions near this one that are captures by themselves; that at birth always is."""
    whole = [r.version for r in state.restorable.values() if not r.edits_of]
    near = (
        max((v for v in whole if v < version), default=None),
        min((v for v in whole if v > version), default=None),
    )
    return " or ".join(str(v) for v in near if v is not None) or "no version (all captures were given up)"


def require_stored(plan: RollbackPlan, vault: Vault) -> int:
    """Read and verify everything that a restore of the target needs; return the bytes of its tensors.

    Raises:
        MissingTensorError, IntegrityFailure, VaultError: if the next ``attach`` could not restore it.
    """
    reader = CaptureReader(vault)
    for problem in reader.problems(plan.state, plan.capture):
        raise problem
    return reader.nbytes


def rollback_fact(plan: RollbackPlan, reason: str) -> RolledBack:
    """Return the fact. Its fingerprints are those of the stored state, which was just read and verified."""
    return RolledBack(
        to_version=plan.target.version,
        capture_version=plan.target.capture,
        from_version=plan.state.version,
        base_capture=None,
        fingerprint=plan.capture.manifest,
        model_fingerprint=plan.capture.model_fingerprint,
        expected_fingerprint=plan.capture.manifest,
        epochs_discarded=plan.epochs,
        steps_discarded=plan.steps,
        trigger="asked",
        reason=reason,
    )


def record(plan: RollbackPlan, vault: Vault | None, log: Log, reason: str, cause: Cause) -> ModelState:
    """Verify what the target needs, record the rollback, and return the state after it.

    Raises:
        VaultError: without a vault, or if it lacks something.
        ConflictError: if somebody appended to the model since the plan was made; nothing is recorded.
        LedgerError: if it can't be recorded.
    """
    if vault is None:
        raise VaultError("there is no vault, so nothing could be restored: name it with --vault DIRECTORY")
    require_stored(plan, vault)
    moment = Moment(at=now(), epoch=plan.state.epoch, step=plan.state.step)
    after, envelopes = recorded(plan.state, (rollback_fact(plan, reason),), cause, moment)
    log.append(envelopes)
    return after
