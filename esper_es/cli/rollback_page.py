"""What ``rollback`` does and answers; torch is loaded with this module."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterator

import typer
from rich.console import RenderableType
from rich.text import Text

from esper_es.cli.architecture_commands import diff_lines
from esper_es.cli.architecture_diff import difference
from esper_es.cli.layout import Hanging, count, pairs, size, words
from esper_es.cli.offline_rollback import RollbackPlan, plan_rollback, record, require_stored
from esper_es.cli.options import Shared
from esper_es.cli.output import Page, show
from esper_es.cli.reading import Reading
from esper_es.cli.summaries import summary_of
from esper_es.domain.canonical import Json
from esper_es.domain.envelope import Cause, Envelope
from esper_es.domain.errors import Refused, UsageError, VaultError
from esper_es.ledger.database import open_database
from esper_es.ledger.log import Log
from esper_es.projections.audit import project

_WAY_BACK = {
    "offline": "which can be rolled back to",
    "live": "which a live run can roll back to",
    "none": "which has no capture: nothing leads back to it",
}


def rollback_page(
    shared: Shared, source: Reading, to: int, *, dry_run: bool, reason: str, actor: str | None
) -> Page:
    """Show what a rollback would do, and record it unless it is only to be shown.

    Raises:
        Refused: if the version can't be gone back to, or the answer to the question is no.
        VaultError, IntegrityFailure: if what would be restored is not whole.
        UsageError: if there is nobody to ask.
    """
    state = source.state(shared.model)
    plan = plan_rollback(state, to)
    stored = _stored_bytes(source, plan)
    before = Page({}, _plan_lines(plan, stored, source.log.history(state.id)))
    document = _document(plan, stored)
    if dry_run:
        return Page({**document, "recorded": None}, [*before.lines, words("nothing was recorded")])
    if not shared.json:
        show(before, as_json=False, no_color=shared.no_color)
    _confirm(shared, plan)
    after = _record(source, plan, reason, actor)
    return Page(
        {**document, "recorded": after},
        [Hanging(words(f"recorded as version {after}; ", "green"), words("the next attach restores it"))],
    )


def _stored_bytes(source: Reading, plan: RollbackPlan) -> int:
    if source.vault is None:
        raise VaultError(f"{source.no_vault}, so version {plan.target.version} could not be restored")
    return require_stored(plan, source.vault)


def _record(source: Reading, plan: RollbackPlan, reason: str, actor: str | None) -> int:
    database = open_database(source.location.url, upgrade=False)
    try:
        cause = Cause(actor=actor or _user(), reasoning=reason or "recorded with esper-es rollback")
        return record(plan, source.vault, Log(database, [project]), reason, cause).version
    finally:
        database.dispose()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return "user"


def _confirm(shared: Shared, plan: RollbackPlan) -> None:
    if shared.yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("a rollback is recorded only with --yes, or after a question on a terminal")
    if not typer.confirm(f"Go back to version {plan.target.version}?", err=True):
        raise Refused("nothing was recorded", "rollback")


def _document(plan: RollbackPlan, stored: int) -> dict[str, Json]:
    return {
        "model": plan.state.name,
        "from_version": plan.state.version,
        "to_version": plan.target.version,
        "capture": plan.capture.version,
        "fingerprint": plan.capture.manifest,
        "model_fingerprint": plan.capture.model_fingerprint,
        "verified_bytes": stored,
        "undone": list(plan.undone),
        "epochs_discarded": plan.epochs,
        "steps_discarded": plan.steps,
        "way_back": plan.way_back,
        "architecture": difference(plan.state.architecture, plan.target.lineage.architecture).as_dict(),
    }


def _plan_lines(plan: RollbackPlan, stored: int, history: tuple[Envelope, ...]) -> Iterator[RenderableType]:
    facts = {envelope.version: envelope for envelope in history}
    way = f"{plan.state.name} {plan.state.version} -> {plan.target.version}"
    yield words(way, "yellow")
    yield from pairs(
        [
            (
                "restores",
                f"the capture of version {plan.capture.version}, {size(stored)}, every byte verified",
            ),
            ("discards", f"{count(plan.epochs, 'epoch')} and {count(plan.steps, 'step')} of training"),
            ("leaves", f"version {plan.state.version}, {_WAY_BACK[plan.way_back]}"),
        ]
    )
    if plan.undone:
        yield words("undoes", "dim")
    for version in plan.undone:
        yield Hanging(words(f"  {version}  ", "yellow"), words(summary_of(facts[version].fact)))
    yield Text()
    yield from diff_lines(difference(plan.state.architecture, plan.target.lineage.architecture))
