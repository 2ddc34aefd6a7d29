"""``models``, ``tree``, ``diff`` and ``blame``: what models are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text
from rich.tree import Tree

from esper_es.cli.architecture_diff import (
    ArchitectureDiff,
    connection_in_words,
    difference,
    node_dict,
    tensor_in_words,
)
from esper_es.cli.blaming import attributions
from esper_es.cli.commands import command
from esper_es.cli.history_commands import moment
from esper_es.cli.layout import Hanging, Rows, count, joined, listed, signed, size, words
from esper_es.cli.options import Shared
from esper_es.cli.output import Page
from esper_es.cli.reading import Reading, reading
from esper_es.cli.summaries import place, summary_of
from esper_es.domain.architecture import Architecture, ModuleNode, join_path
from esper_es.domain.canonical import Json
from esper_es.domain.envelope import Envelope
from esper_es.domain.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    command(app, "models")(models)
    command(app, "tree")(tree)
    command(app, "diff")(diff)
    command(app, "blame")(blame)


def models(shared: Shared) -> Page:
    """List the models of a log."""
    with reading(shared.location()) as source:
        names = list(source.models()) if shared.model is None else [source.model(shared.model)[0]]
        entries = [_model(source, name) for name in names]
    columns = ("name", "version", "epoch", "step", "parameters", "newest fact")
    rows = [
        (e["name"], e["version"], e["epoch"], e["step"], e["parameters"], moment(e["at"])) for e in entries
    ]
    return Page({"models": entries}, [Rows(columns, rows)] if rows else [words("the log knows no model yet")])


def _model(source: Reading, name: str) -> dict[str, Json]:
    state = source.state(name)
    (newest,) = source.log.at(state.id, {state.version})
    return {
        "name": name,
        "version": state.version,
        "epoch": state.epoch,
        "step": state.step,
        "parameters": state.architecture.parameter_count,
        "bytes": state.architecture.nbytes,
        "modules": len(state.architecture.nodes),
        "blueprint": state.base.blueprint,
        "at": newest.at,
    }


def tree(
    shared: Shared,
    version: Annotated[int | None, typer.Argument(metavar="[V]", help="The newest by default.")] = None,
) -> Page:
    """Show the architecture of a model at a version."""
    with reading(shared.location()) as source:
        state = source.state(shared.model, version)
    architecture = state.architecture
    document = {
        "model": state.name,
        "version": state.version,
        "fingerprint": architecture.fingerprint,
        "parameters": architecture.parameter_count,
        "bytes": architecture.nbytes,
        "modules": {path: node_dict(node) for path, node in architecture.nodes.items()},
        "connections": [connection_in_words(c) for c in architecture.connections],
        "shared_modules": dict(architecture.aliases),
        "tied_tensors": dict(architecture.ties),
    }
    return Page(document, _tree(architecture, f"{state.name} {state.version}"))


def _tree(architecture: Architecture, title: str) -> Iterator[RenderableType]:
    content = f"{count(architecture.parameter_count, 'parameter')}, {size(architecture.nbytes)}"
    root = Tree(joined(words(title, "yellow"), "  ", _node(architecture.nodes[""]), f"  {content}"))
    _grow(root, architecture, "")
    yield root
    for connection in architecture.connections:
        yield Hanging(Text("+ "), words(connection_in_words(connection)))
    for name, origin in architecture.ties.items():
        yield Hanging(Text("= "), words(f"{name} is tied to {origin}"))


def _grow(branch: Tree, architecture: Architecture, path: str) -> None:
    for name in architecture.nodes[path].children:
        child = join_path(path, name)
        if child in architecture.nodes:
            label = joined(words(name, "bold"), "  ", _node(architecture.nodes[child]))
            _grow(branch.add(label), architecture, child)
        else:
            branch.add(joined(words(name, "bold"), f"  shares {architecture.aliases.get(child, '?')}"))


def _node(node: ModuleNode) -> Text:
    tensors = ", ".join(f"{name} {tensor_in_words(spec)}" for name, spec in node.tensors.items())
    return joined(words(node.kind, "cyan"), words(f"  {tensors}" if tensors else "", "dim"))


def diff(
    shared: Shared,
    first: Annotated[int, typer.Argument(metavar="V1")],
    second: Annotated[int, typer.Argument(metavar="V2")],
) -> Page:
    """Show how the architecture differs between two versions."""
    with reading(shared.location()) as source:
        before, after = source.state(shared.model, first), source.state(shared.model, second)
    found = difference(before.architecture, after.architecture)
    document = {"model": after.name, "from": before.version, "to": after.version, **found.as_dict()}
    title = words(f"{after.name} {before.version} -> {after.version}", "yellow")
    return Page(document, [Hanging(title), *diff_lines(found)])


def diff_lines(found: ArchitectureDiff) -> Iterator[RenderableType]:
    """Yield a difference for a person: ``-`` went, ``+`` came, ``~`` changed."""
    for path, node in found.removed.items():
        yield Hanging(Text("- ", "red"), joined(words(place(path), "red"), "  ", _node(node)))
    for path, node in found.added.items():
        yield Hanging(Text("+ ", "green"), joined(words(place(path), "green"), "  ", _node(node)))
    for change in found.changed:
        yield Hanging(Text("~ ", "yellow"), words(place(change.path), "yellow"))
        for what in change.changes:
            yield Hanging(Text("    "), words(what))
    for connection in found.disconnected:
        yield Hanging(Text("- ", "red"), words(connection_in_words(connection)))
    for connection in found.connected:
        yield Hanging(Text("+ ", "green"), words(connection_in_words(connection)))
    for line in found.shared:
        yield Hanging(Text("~ ", "yellow"), words(line))
    if not found:
        yield words("the architecture is the same")
    before, after = found.parameters
    yield Hanging(words("parameters  "), words(f"{before:,} -> {after:,} ({signed(after - before)})"))


def blame(
    shared: Shared,
    path: Annotated[str, typer.Argument(metavar="[PATH]", help="Only this module and those below.")] = "",
) -> Page:
    """Show which fact added each module, and which changed it last."""
    with reading(shared.location()) as source:
        state = source.state(shared.model)
        history = source.log.history(state.id, to=state.version)
    architecture = state.architecture
    if path not in architecture:
        known = listed([p for p in architecture.nodes if p])
        raise UsageError(f"{state.name!r} has no module {path!r} at version {state.version}; it has: {known}")
    attributed = attributions(history)
    entries: list[dict[str, Json]] = [
        {
            "path": module,
            "kind": architecture.nodes[module].kind,
            "added_by": attributed[module].added_by,
            "changed_by": attributed[module].changed_by,
        }
        for module in architecture.descendants(path)
    ]
    facts = {e.version: e for e in history}
    causes = sorted({e[key] for e in entries for key in ("added_by", "changed_by")})
    width = len(str(causes[-1]))
    document = {"model": state.name, "version": state.version, "modules": entries}
    rows = [(e["added_by"], e["changed_by"], place(e["path"]), e["kind"]) for e in entries]
    return Page(
        document,
        [
            Rows(("added by", "changed by", "module", "kind"), rows),
            Text(),
            *(_because(facts[version], width) for version in causes),
        ],
    )


def _because(envelope: Envelope, width: int) -> Hanging:
    actor = words(f", by {envelope.cause.actor}", "green")
    return Hanging(
        words(f"{envelope.version:>{width}}  ", "yellow"), joined(summary_of(envelope.fact), actor)
    )
