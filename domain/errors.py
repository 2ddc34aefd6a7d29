"""Errors of the engine. Each message says what was wrong and what would be right."""

from __future__ import annotations


class EsperError(Exception):
    """Ancestor of every error that this package raises on purpose.

    Its message can be written anywhere: what no encoding holds stands there as an escape.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message.encode("utf-8", "backslashreplace").decode())


class UsageError(EsperError, ValueError):
    """The API was called with arguments that can never be right."""


class Refused(EsperError):
    """The aggregate or a planner says no. The engine turns it into a result and a fact.

    Args:
        reason: what is wrong and what would be right, for a person.
        check: the stable name of the rule that said no, e.g. ``"max_layers_to_add"``.
    """

    def __init__(self, reason: str, check: str) -> None:
        super().__init__(reason)
        self.reason = str(self)
        self.check = check


class LedgerError(EsperError):
    """The log could not be opened, read or written."""


class ConflictError(LedgerError):
    """Another writer appended to the same model first; nothing of this change was kept."""


class OutcomeUnknownError(LedgerError):
    """The log was lost at the moment of a commit: whether its facts are recorded could not be learnt."""


class IntegrityFailure(EsperError):
    """Stored bytes are not what their digest or hash says: history or tensors were altered or damaged."""


class VaultError(EsperError):
    """Tensors could not be stored or read."""


class MissingTensorError(VaultError):
    """A digest named by the log is not in the vault."""


class ReplayError(EsperError):
    """A version cannot be rebuilt: the reason names what is missing."""
