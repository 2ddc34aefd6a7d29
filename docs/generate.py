"""Writes the documents that are drawn from the code: ``python docs/generate.py``. A test keeps them true."""

from __future__ import annotations

from pathlib import Path

from transitions.extensions import GraphMachine

from esper_es.domain.lifecycle import ESPER_LITE, LifecycleProfile
from esper_es.projections.audit.document import document

HERE = Path(__file__).parent


class _Seed:
    """Gives the diagram something to draw."""


def lifecycle(profile: LifecycleProfile = ESPER_LITE) -> str:
    """Return the page about the life of a seed, in Markdown."""
    seed = _Seed()
    machine = GraphMachine(
        model=seed,
        states=[f"{stage.name}" for stage in profile.stages],
        transitions=[[t.trigger, t.source, t.target] for t in profile.transitions],
        initial=profile.initial,
        auto_transitions=False,
        graph_engine="mermaid",
        title=profile.name,
    )
    source = machine.get_combined_graph().source
    diagram = source[source.index("stateDiagram") :]
    stages = "\n".join(f"| {stage.name} | {stage.mode} |" for stage in profile.stages)
    gates = "\n".join(
        f"| {t.source} -> {t.target} | {t.trigger} | {t.gate or '-'} | {t.min_epochs} | "
        + (", ".join(f"{r.evidence} >= {r.at_least:g}" for r in t.requires) or "-")
        + " |"
        for t in profile.transitions
    )
    return f"""# The life of a seed

Drawn from `domain/lifecycle.py` by `python docs/generate.py`. Profile `{profile.name}`, version {profile.version}.

```mermaid
{diagram.strip()}
```

| stage | mode |
|---|---|
{stages}

`absent`: no module. `incubating`: the branch learns, the output is unchanged, byte for byte. `blending`: alpha moves.
`active`: alpha is at its target. `permanent`: an ordinary layer.

| step | command | gate | epochs in stage | evidence |
|---|---|---|---|---|
{gates}

The command `tick` is the clock's: `run.epoch_end` gives it. Missing evidence fails a gate. `esper_es.strict()` asks for
esper-lite's strict evidence; `profile.with_min_epochs(G2=10)` for other times. An overridden gate is recorded with
its reason.
"""


def main() -> None:
    """Write the documents."""
    (HERE / "lifecycle.md").write_text(lifecycle())
    (HERE / "audit-tables.md").write_text(document())


if __name__ == "__main__":
    main()
