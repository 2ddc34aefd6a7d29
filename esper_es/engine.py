"""The engine: a log, a vault, and the models attached to them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.optim import Optimizer

from esper_es.attaching import Terms, attached
from esper_es.domain.canonical import Json
from esper_es.domain.constraints import SurgeryConstraints
from esper_es.domain.envelope import Cause, Envelope, model_id
from esper_es.domain.errors import ConflictError, LedgerError, UsageError
from esper_es.domain.lifecycle import LifecycleProfile
from esper_es.domain.model import Moment, enveloped, folded
from esper_es.domain.policies import CapturePolicy, WatchPolicy
from esper_es.domain.state import ModelState
from esper_es.domain.whole_numbers import whole
from esper_es.forking import forked
from esper_es.ledger.chain import Finding, verify_chain
from esper_es.ledger.database import open_database
from esper_es.ledger.heads import heads
from esper_es.ledger.log import Log
from esper_es.ledger.urls import database_url
from esper_es.opening import VaultGiven, require_usable_places, vault_of, vault_to_read, vault_to_write
from esper_es.projections.audit import Audit, project
from esper_es.projections.live.live import Live
from esper_es.rebuilding import replayed, with_captures_of
from esper_es.repeating import repeat_surgery, surgeries_of
from esper_es.result import SurgeryResult
from esper_es.run import Run
from esper_es.session import Publisher, Subscriber, now
from esper_es.vault import AnyVault

logger = logging.getLogger(__name__)


class Engine:
    """Opens a log and a vault; attaches models, replays them, answers questions.

    Args:
        url: of the log: ``"sqlite:///runs.db"``, ``"postgresql://..."``, or in memory by default.
        vault: directory of the tensors; beside an SQLite file by default (``runs.db`` -> ``runs.vault``), in
            memory for a log in memory.
        read_only: only read. Neither the log's file, nor its directory, nor the vault has to be writable, and what
            would write raises UsageError.

    Raises:
        UsageError: if log and vault are in each other's way.
        LedgerError: if the log can't be opened.
        VaultError: if the vault can't be.
    """

    def __init__(self, url: str = ":memory:", vault: VaultGiven = None, *, read_only: bool = False) -> None:
        address = database_url(url)
        place = vault_of(address, vault)
        if not read_only:
            require_usable_places(place)
        self._read_only = read_only
        self._place = place
        self._vault: AnyVault | None = None
        self._database = open_database(address, read_only=read_only)
        try:
            if not read_only:
                self._vault = vault_to_write(place, self._database)
            self.log = Log(self._database, [project])
            self._fill_tables()
        except BaseException:
            self._database.dispose()
            raise
        self._publisher = Publisher()

    @property
    def vault(self) -> AnyVault:
        """The tensors. To read only, the vault is opened at first use: facts and tables need none.

        Raises:
            VaultError: if there is no vault to read.
        """
        if self._vault is None:
            self._vault = vault_to_read(self._place)
        return self._vault

    def _require_writable(self, what: str) -> None:
        if self._read_only:
            raise UsageError(
                f"this engine was opened read-only and can't {what}; open it without read_only=True"
            )

    def _fill_tables(self) -> None:
        """Rebuild the audit tables of a log that was written before they existed."""
        with self._database.connect() as connection:
            newest = {model: head.version for model, head in heads(connection).items()}
        if self.audit.versions() == newest:
            return
        if self._read_only:
            logger.warning(
                "the audit tables are not those of the facts; opened once for writing, they are rebuilt"
            )
            return
        logger.info("rebuilding the audit tables from the log")
        self.audit.rebuild([fact for model in newest for fact in self.log.history(model)])

    def attach(
        self,
        model: nn.Module,
        name: str,
        example_inputs: object = None,
        optimizer: Optimizer | None = None,
        scheduler: Any = None,
        scaler: Any = None,
        blueprint: str | None = None,
        blueprint_args: Mapping[str, Json] | None = None,
        constraints: SurgeryConstraints | None = None,
        *,
        capture: CapturePolicy | None = None,
        watch: WatchPolicy | None = None,
        lifecycle: LifecycleProfile | None = None,
        fresh: Collection[str] = (),
        cause: Cause | None = None,
    ) -> Run:
        """Take a model under the engine's care.

        A new name is registered. A name with history resumes: the model is rebuilt, in place, to the log's state.

        Args:
            model: any ``nn.Module``; changed in place from now on.
            name: in the log.
            example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments that the model takes; or a
                list of these, to reach several branches. What no example reaches is never changed.
            optimizer: over the model's own parameters.
            scheduler: anything with ``state_dict`` and ``load_state_dict``.
            scaler: a gradient scaler.
            blueprint: name of the registered function that builds the model; needed unless it is composed of
                registered layer kinds only, or is a model of ``transformers`` or ``timm``. Built in are
                ``"transformers"`` (``architecture``, ``config``) and ``"timm"`` (``model_name``, ...).
            blueprint_args: its keyword arguments, as JSON.
            constraints: limits; None sets none.
            capture: when the state is captured; before every structural change by default.
            watch: which metric judges surgeries; None for none.
            lifecycle: of the seeds; ``ESPER_LITE`` by default.
            fresh: parts that begin anew when a name with history resumes, instead of being restored: among
                ``"optimizer"``, ``"scheduler"``, ``"scaler"``. They may be of other kinds than before, or missing. It
                is recorded, and what the run is then is captured.
            cause: who and why.

        Raises:
            UsageError: if the model could not be rebuilt from the log, or does not fit the name's history.
            ConflictError, LedgerError, VaultError: if it can't be recorded.
        """
        self._require_writable("attach a model")
        terms = Terms(
            blueprint=blueprint,
            blueprint_args={} if blueprint_args is None else blueprint_args,
            constraints=constraints,
            capture=capture,
            watch=watch,
            lifecycle=lifecycle,
        )
        live = Live(model, optimizer, scheduler, scaler)
        session = attached(
            self.log,
            self.vault,
            self._publisher,
            live,
            example_inputs,
            name,
            terms,
            cause or Cause(),
            fresh,
        )
        return Run(session)

    @torch.inference_mode(mode=False)
    def replay(
        self, name: str, version: int | None = None, device: torch.device | str | None = None
    ) -> nn.Module:
        """Rebuild a model from the log: a fresh module, in training mode as it was captured.

        Its attribute ``esper_replay`` (a ``Replay``) says whether it is exact, and where its tensors come from.

        Args:
            name: of the model.
            version: the newest by default.
            device: where to put it; the CPU by default.

        Raises:
            UsageError: if the log knows no such model or version.
            ReplayError: if the structure can't be rebuilt.
            IntegrityFailure: if tensors are damaged.
        """
        newest = self.state(name)
        state = with_captures_of(newest, self._at(newest, version))
        history = self.log.at(state.id, {1, *state.lineage.edits_of})
        module, report = replayed(state, history, self.vault)
        module.esper_replay = report  # type: ignore[assignment]
        return module if device is None else module.to(device)

    def fork(
        self, source: str, *, name: str, version: int | None = None, cause: Cause | None = None
    ) -> nn.Module:
        """Begin a new model in the log from an exactly restorable version of another; return it, exactly rebuilt.

        Attach the returned module (or the base model) under the new name to train it.

        Args:
            source: name of the model to fork.
            name: of the new model.
            version: of the source; its newest by default.
            cause: who and why.

        Raises:
            UsageError: if the version can't be restored exactly, or a name is wrong.
            ConflictError: if the new name is taken.
        """
        self._require_writable("fork a model")
        new_id = model_id(name)
        newest = self.state(source)
        state = with_captures_of(newest, self._at(newest, version))
        if self.log.load(new_id) is not None:
            raise ConflictError(f"the log knows a model {name!r} already; choose another name for the fork")
        history = self.log.history(state.id)
        facts = forked(state, history, name)
        moment = Moment(at=now(), epoch=0, step=0)
        envelopes = enveloped(new_id, 0, facts, cause or Cause(), moment)
        folded(None, envelopes)
        self.log.append(envelopes)
        self._publisher.publish(envelopes)
        return self.replay(name)

    def replay_surgeries(
        self, source: str, onto: Run, *, since: int = 0, version: int | None = None
    ) -> list[SurgeryResult]:
        """Repeat the four surgeries that led to a version of one model on another run.

        Each is tried and recorded as an operation of that run; new tensors get the recorded bytes. The first one
        refused ends it. Seeds are not repeated.

        Args:
            source: name of the model whose surgeries are repeated.
            onto: an attached run.
            since: a version of the source; only surgeries after it are repeated.
            version: of the source; its newest by default.

        Raises:
            UsageError: if the log knows no such model or version.
            MissingTensorError: if the vault lacks a recorded tensor.
        """
        since = whole(since)
        if isinstance(since, bool) or not isinstance(since, int) or since < 0:
            raise UsageError(f"since is the number of a version, got {since!r}")
        if not isinstance(onto, Run):
            raise UsageError(
                f"surgeries are repeated onto a run, as attach returns it; got {type(onto).__name__}"
            )
        state = self.state(source, version)
        history = self.log.history(state.id, to=state.version)
        results: list[SurgeryResult] = []
        for repeated in surgeries_of(state, history):
            if repeated.envelope.version <= since:
                continue
            results.append(repeat_surgery(onto.session, repeated, self.vault))
            if not results[-1].success:
                break
        return results

    def state(self, name: str, version: int | None = None) -> ModelState:
        """Return the aggregate's state of a model, at a version or the newest.

        Raises:
            UsageError: if the log knows no such model or version.
        """
        newest = self.log.load(model_id(name))
        if newest is None:
            known = ", ".join(self.names()) or "none"
            raise UsageError(f"the log knows no model {name!r}; it knows: {known}")
        return self._at(newest, version)

    def _at(self, newest: ModelState, version: int | None) -> ModelState:
        version = whole(version)
        if version is None or version == newest.version:
            return newest
        if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version < newest.version:
            raise UsageError(
                f"model {newest.name!r} has no version {version!r}; it has 1 to {newest.version}"
            )
        state = self.log.load(newest.id, version)
        if state is None:
            raise LedgerError(f"version {version} of model {newest.name!r} can't be read")
        return state

    def history(self, name: str) -> tuple[Envelope, ...]:
        """Return all facts of a model, in order.

        Raises:
            UsageError: if the log knows no such model.
        """
        return self.log.history(self.state(name).id)

    def verify_facts(self) -> list[Finding]:
        """Check the hash of every fact and its link to the one before; return what was found, nothing if all hold."""
        with self._database.connect() as connection:
            return verify_chain(connection)

    def names(self) -> tuple[str, ...]:
        """Return the names of all models in the log."""
        return tuple(self.log.models())

    @property
    def audit(self) -> Audit:
        """Typed questions over the SQL tables."""
        return Audit(self._database)

    def subscribe(self, callback: Subscriber) -> None:
        """Hand every fact to ``callback`` after its commit, in order. One that raises is logged and harms nobody."""
        self._publisher.subscribers.append(callback)

    def close(self) -> None:
        """Close the log and the vault."""
        self._database.dispose()
        if self._vault is not None:
            self._vault.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
