"""The whole state of a run is stored, released, or gone back to."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class StateCaptured:
    """Every tensor and counter of the run was stored in the vault.

    Attributes:
        of_version: the version whose last state this is.
        manifest: digest of the manifest, which is the fingerprint of the whole state: module, optimizer,
            scheduler, scaler, RNG.
        model_fingerprint: of the module alone: architecture and bytes.
        tensors: how many tensors the manifest names.
        nbytes: their bytes.
        reason: ``"birth"``, ``"before <operation>"``, ``"asked"``, ``"every N epochs"``.
    """

    of_version: int
    manifest: str
    model_fingerprint: str
    tensors: int
    nbytes: int
    reason: str


@frozen(kw_only=True)
class CapturesReleased:
    """The retention policy gave up captures; garbage collection may delete their tensors."""

    versions: tuple[int, ...]


@frozen(kw_only=True)
class RolledBack:
    """The run went back to an earlier version.

    Attributes:
        to_version: the version asked for.
        capture_version: the capture restored; edits after it up to ``to_version`` were applied again.
        from_version: head before.
        base_capture: capture of the state that was left, so that the rollback can be rolled back.
        fingerprint: of the whole state of the live run after restoring, measured; for a rollback recorded on the
            command line, that of the verified capture, which the next attach restores.
        model_fingerprint: live module after restoring, measured.
        expected_fingerprint: what it had to be: the manifest of the capture, when that was the target itself
            (and not a surgery right after it).
        epochs_discarded: epochs of training given up.
        steps_discarded: optimizer steps given up.
        left_out: random generators that are not what they were, with the reason, e.g. ``"cuda:1: not here"`` or
            ``"cuda:1: not in the capture"``.
        fresh: parts that were not restored, because they begin anew: ``"optimizer"``, ``"scheduler"``, ``"scaler"``.
        trigger: ``"asked"``, ``"watch"``, or ``"resume"`` (a process came back to a log whose last training
            was not captured).
        reason: why.
    """

    to_version: int
    capture_version: int
    from_version: int
    base_capture: int | None
    fingerprint: str
    model_fingerprint: str
    expected_fingerprint: str | None
    epochs_discarded: int
    steps_discarded: int
    trigger: str
    reason: str
    left_out: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
