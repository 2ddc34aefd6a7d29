"""``verify``: that history, tensors and tables are what was recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from json import JSONDecodeError
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.console import RenderableType
from rich.text import Text
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from esper_es.cli.commands import command
from esper_es.cli.exits import ExitCode, is_database_damage, is_unreadable_content, message_of
from esper_es.cli.findings import Check, Finding, Weight, verdict
from esper_es.cli.layout import Hanging, count, joined, pairs, words
from esper_es.cli.locations import Location
from esper_es.cli.log_checks import check_chain, check_database, check_facts
from esper_es.cli.options import Shared
from esper_es.cli.output import Page
from esper_es.cli.reading import Reading, reading
from esper_es.cli.schema_checks import check_schema
from esper_es.cli.table_checks import check_tables
from esper_es.domain.canonical import Json
from esper_es.domain.errors import IntegrityFailure, UsageError, VaultError
from esper_es.ledger.heads import Head, export_heads, heads, parse_heads

_VERDICTS = {
    ExitCode.FINE: ("verified", "green"),
    ExitCode.FINDING: ("verified, with remarks", "yellow"),
    ExitCode.INTEGRITY: ("NOT INTACT", "bold red"),
}


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(app, "verify")(verify)


def verify(
    shared: Shared,
    heads_file: Annotated[
        Path | None,
        typer.Option("--heads", metavar="FILE", help="Also check heads that were exported earlier."),
    ] = None,
    export_to: Annotated[
        Path | None,
        typer.Option(
            "--export-heads",
            metavar="FILE",
            help="Write the heads there if all is well; keep them elsewhere.",
        ),
    ] = None,
    log_only: Annotated[bool, typer.Option("--log-only", help="Leave the vault out.")] = False,
) -> Page:
    """Check every hash, fact, capture, pack and table.

    Exits with 3 if anything is not what was recorded.
    """
    exported = None if heads_file is None else _parsed_heads(heads_file)
    if export_to is not None and export_to.exists() and not shared.yes:
        raise UsageError(f"--export-heads {export_to}: the file exists; name another one, or give --yes")
    location = shared.location()
    checks, current = _checked(location, exported, log_only=log_only)
    code = verdict(checks)
    if export_to is not None and code != ExitCode.INTEGRITY:
        _write_heads(export_to, current)
    return Page(_document(location, checks, code), _lines(location, checks, code), code)


def _checked(
    location: Location, exported: Mapping[UUID, Head] | None, *, log_only: bool
) -> tuple[list[Check], dict[UUID, Head]]:
    """Carry out all checks, as far as the database can be read at all."""
    checks: list[Check] = []
    try:
        with reading(location) as source, source.database.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            for check in _checks(source, connection, exported, log_only=log_only):
                checks.append(check)
            return checks, heads(connection)
    except (DBAPIError, IntegrityFailure, JSONDecodeError) as error:
        if isinstance(error, DBAPIError) and not (is_database_damage(error) or is_unreadable_content(error)):
            raise
        said = (
            message_of(error)
            if isinstance(error, (DBAPIError, IntegrityFailure))
            else f"a column is no JSON: {error}"
        )
        found = Finding(kind="damaged_database", where="database", message=said)
        return [*checks, Check("database", "it can't be read to its end", [found], done=False)], {}


def _checks(
    source: Reading, connection: Connection, exported: Mapping[UUID, Head] | None, *, log_only: bool
) -> Iterator[Check]:
    yield check_database(connection)
    yield check_schema(connection)
    facts, histories = check_facts(connection)
    yield check_chain(connection, exported, histories)
    yield facts
    if facts.findings:
        yield Check("tables", "not compared, for not all facts can be read", done=False)
    else:
        yield check_tables(connection, histories)
    if log_only:
        yield Check("vault", "left out", done=False)
        return
    from esper_es.cli.vault_checks import check_captures, check_vault  # with them comes torch

    try:
        vault = source.vault_to_mark()
    except VaultError as error:
        found = Finding(kind="unreadable_vault", where="vault", message=str(error))
        yield Check("vault", "it can't be opened", [found], done=False)
        return
    yield check_captures(connection, histories, vault, source.no_vault)
    yield check_vault(vault, source.no_vault)


def _parsed_heads(file: Path) -> dict[UUID, Head]:
    try:
        return parse_heads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--heads {file}: {error}") from error


def _write_heads(file: Path, current: Mapping[UUID, Head]) -> None:
    try:
        file.write_text(export_heads(current), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--export-heads {file}: {error.strerror}") from error


def _document(location: Location, checks: Sequence[Check], code: ExitCode) -> dict[str, Json]:
    return {
        "log": location.place,
        "vault": None if location.vault is None else str(location.vault),
        "verdict": _VERDICTS[code][0].lower(),
        "intact": code != ExitCode.INTEGRITY,
        "checks": [check.as_dict() for check in checks],
    }


def _lines(location: Location, checks: Sequence[Check], code: ExitCode) -> Iterator[RenderableType]:
    yield Hanging(words("log  "), words(location.place, "yellow"))
    yield from pairs([(check.name, joined(_mark(check), check.detail)) for check in checks])
    for check in checks:
        for found in check.findings:
            style = "red" if found.weight is Weight.FAILURE else "yellow"
            yield Text()
            yield Hanging(words(f"{found.kind}  ", style), words(found.where, "yellow"))
            yield Hanging(Text("  "), words(found.message))
    yield Text()
    text, style = _VERDICTS[code]
    number = sum(len(check.findings) for check in checks)
    yield joined(words(text, style), f": {count(number, 'finding')}" if number else "")


def _mark(check: Check) -> Text:
    if check.findings:
        return words(f"{count(len(check.findings), 'finding')}: ", "red")
    return words("ok: ", "green") if check.done else words("not done: ", "yellow")
