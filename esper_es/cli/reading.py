"""The read side of a log: its facts and states, and its vault if there is one. Nothing is written to the log."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import UUID

from attrs import define, field
from sqlalchemy import Engine

from esper_es.cli.exits import is_database_damage
from esper_es.cli.layout import listed
from esper_es.cli.locations import Location
from esper_es.domain.envelope import Envelope
from esper_es.domain.errors import IntegrityFailure, LedgerError, UsageError, VaultError
from esper_es.domain.state import ModelState
from esper_es.ledger.database import open_database
from esper_es.ledger.log import Log
from esper_es.vault_place import is_vault

if TYPE_CHECKING:
    from esper_es.vault import Vault


logger = logging.getLogger(__name__)


@define(eq=False)
class Reading:
    """A log opened for reading.

    Attributes:
        location: where the log and its vault are.
        database: engine of the log, read-only.
        log: its facts.
    """

    location: Location
    database: Engine
    log: Log
    _vault: Vault | None = field(default=None, init=False)

    def models(self) -> dict[str, UUID]:
        """Return the id of every model, by name."""
        return self.log.models()

    def model(self, name: str | None) -> tuple[str, UUID]:
        """Return name and id of a model; of the only one, when no name is given.

        Raises:
            UsageError: if the log does not know it, or has several to choose from; it names what there is.
        """
        models = self.models()
        known = listed(list(models))
        if name is None and len(models) == 1:
            return next(iter(models.items()))
        if name is None:
            raise UsageError(f"which model? The log knows: {known}; name one with --model NAME")
        if name not in models:
            raise UsageError(f"the log knows no model {name!r}; it knows: {known}")
        return name, models[name]

    def state(self, name: str | None, version: int | None = None) -> ModelState:
        """Return the state of a model, at a version or the newest.

        Raises:
            UsageError: if there is no such model or version.
        """
        name, model = self.model(name)
        newest = self.log.load(model)
        if newest is None:
            raise LedgerError(f"model {name!r} can't be read")
        if version is None or version == newest.version:
            return newest
        if not 1 <= version < newest.version:
            raise UsageError(f"model {name!r} has no version {version}; it has 1 to {newest.version}")
        state = self.log.load(model, version)
        if state is None:
            raise LedgerError(f"version {version} of model {name!r} can't be read")
        return state

    def history(self, name: str | None) -> tuple[Envelope, ...]:
        """Return all facts of a model, in order.

        Raises:
            UsageError: if there is no such model.
        """
        return self.log.history(self.model(name)[1])

    @property
    def vault(self) -> Vault | None:
        """The vault, opened at first use to be read only; None if there is none. None is ever created.

        Raises:
            VaultError: if there is one that can't be opened.
        """
        path = self.location.vault
        if self._vault is None and path is not None and is_vault(path):
            from esper_es.vault import Vault  # with it comes torch, which takes a second

            self._vault = Vault.open_read_only(path)
        return self._vault

    def vault_to_mark(self) -> Vault | None:
        """Return the vault so that what is found damaged in it is remembered, and captures store it again.

        Where nothing may be written, it is only read. None if there is none.

        Raises:
            VaultError: if there is one that can't be read.
        """
        path = self.location.vault
        if self._vault is None and path is not None and is_vault(path):
            from esper_es.vault import Vault

            try:
                self._vault = Vault.open(path, leftovers_after_seconds=math.inf)
            except VaultError as error:
                logger.info("what is found damaged can't be remembered: %s", error)
        return self.vault

    @property
    def no_vault(self) -> str:
        """Why there is no vault, in words."""
        if self.location.vault is None:
            return "no vault was named: use --vault DIRECTORY"
        return f"there is no vault at {self.location.vault}"

    def close(self) -> None:
        """Close the log and the vault."""
        self.database.dispose()
        if self._vault is not None:
            self._vault.close()


@contextmanager
def reading(location: Location) -> Iterator[Reading]:
    """Open a log for reading, for the length of a block.

    Raises:
        UsageError: if there is no log that this release can read.
        IntegrityFailure: if the database is damaged.
    """
    try:
        database = open_database(location.url, read_only=True)
    except LedgerError as error:
        kind = IntegrityFailure if is_database_damage(error) else UsageError
        raise kind(str(error)) from error
    opened = Reading(location, database, Log(database))
    try:
        yield opened
    finally:
        opened.close()
