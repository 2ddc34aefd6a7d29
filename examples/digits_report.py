"""What is printed when the work is done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from digits_comparison import Contestant
from digits_record import Place
from rich.console import Console
from rich.table import Table

from esper_es import AlphaSchedule, Envelope, facts


def wide_console() -> Console:
    """Return the terminal, or something wide enough for tables where output goes elsewhere."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def headline(fact: facts.Fact) -> str | None:
    """Return what happened, in words; None for facts that only keep the books."""
    match fact:
        case facts.SeedPlanted():
            return f"seed {fact.seed}: planted after {fact.layer}"
        case facts.SeedGerminated():
            return f"seed {fact.seed}: germinated, kernel {fact.kernel}"
        case facts.SeedAdvanced():
            return f"seed {fact.seed}: {fact.from_stage} to {fact.stage}{_ramp(fact.schedule)}"
        case facts.SeedFossilized():
            evidence = ", ".join(f"{name} {value:+.3f}" for name, value in fact.evidence.items())
            return f"[green]seed {fact.seed}: fossilized, {evidence}[/green]"
        case facts.SeedCulled():
            return f"[yellow]seed {fact.seed}: culled, {fact.reason}[/yellow]"
        case facts.LayerAdded():
            return (
                f"[bold]layer {fact.layer_name} added after {fact.after_layer}, {fact.connection_type}[/bold]"
            )
        case facts.LayerRemoved():
            return f"[bold]layer {fact.layer_name} removed, {fact.bridge_strategy} bridge[/bold]"
        case facts.LayerWidthModified():
            return f"[bold]layer {fact.layer_name}: width {fact.old_width} to {fact.new_width}[/bold]"
        case facts.SkipConnectionAdded():
            return f"[bold]skip connection from {fact.from_layer} to {fact.to_layer}[/bold]"
        case facts.SkipConnectionRemoved():
            return f"[bold]no skip connection from {fact.from_layer} to {fact.to_layer} any more[/bold]"
        case facts.SurgeryRefused():
            return f"[yellow]{fact.operation} {fact.target} refused: {fact.reason}[/yellow]"
        case facts.WatchClosed(outcome="kept"):
            return f"surgery {fact.subject_version} kept: {fact.score:.0%} of the score before"
        case facts.WatchClosed():
            return f"[red]surgery {fact.subject_version} failed: {fact.score:.0%} of the score before[/red]"
        case facts.RolledBack():
            return f"[red]rolled back to version {fact.to_version}, bit for bit[/red]"
        case _:
            return None


def _ramp(schedule: AlphaSchedule | None) -> str:
    if schedule is None:
        return ""
    return f", alpha to {schedule.target:g} in {schedule.epochs} epochs, {schedule.curve}"


def _parameters(fact: facts.Fact) -> str:
    effects = getattr(fact, "effects", None)
    if effects is None:
        return ""
    return f"{effects.parameters_after} ({effects.parameters_after - effects.parameters_before:+})"


def print_timeline(console: Console, history: Iterable[Envelope]) -> None:
    """Print what happened to a network, as its log tells it."""
    table = Table(title="What happened, as the log tells it", title_justify="left")
    table.add_column("version", justify="right")
    table.add_column("epoch", justify="right")
    table.add_column("what", overflow="fold")
    table.add_column("parameters", no_wrap=True)
    table.add_column("who: why", overflow="fold")
    for envelope in history:
        what = headline(envelope.fact)
        if what is not None:
            why = f"{envelope.cause.actor}: {envelope.cause.reasoning}"
            table.add_row(str(envelope.version), str(envelope.epoch), what, _parameters(envelope.fact), why)
    console.print(table)


def print_comparison(console: Console, contestants: Sequence[Contestant]) -> None:
    """Print how the grown networks compare with static ones."""
    table = Table(title="Grown and static networks, after as many epochs", title_justify="left")
    table.add_column("network")
    table.add_column("parameters", justify="right")
    table.add_column("test accuracy", justify="right")
    table.add_column("by seed", justify="right")
    for one in contestants:
        by_seed = "  ".join(f"{value:.3f}" for value in one.accuracies)
        table.add_row(one.name, one.parameters, f"{one.mean:.3f} ± {one.deviation:.3f}", by_seed)
    console.print(table)
    console.print(
        "Each grown network was judged by its own gates and watch windows, and a rollback costs the epochs that it "
        "gives up.\nDifferences within the spread of the seeds say nothing."
    )


def print_commands(console: Console, program: str, place: Place, history: Sequence[Envelope]) -> None:
    """Print where to look further.

    Args:
        console: where to print.
        program: how to call ``esper-es``.
        place: of the log.
        history: of the network.
    """
    failed = [
        e.fact.subject_version
        for e in history
        if isinstance(e.fact, facts.WatchClosed) and e.fact.outcome != "kept"
    ]
    newest = history[-1].version
    show = f"show {failed[0] if failed else newest}"
    console.print("\nLook further:")
    for command in (
        "log --oneline",
        show,
        f"diff 1 {newest}",
        "blame",
        "audit seeds",
        "audit rollbacks",
        "verify",
    ):
        console.print(f"  {program} {command} --db {place.log}", highlight=False, soft_wrap=True)
    replay = f"PYTHONPATH=examples {program} replay --check --import digits_model --db {place.log}"
    console.print(f"  {replay}\n", highlight=False, soft_wrap=True)
