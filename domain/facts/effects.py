"""What a structural change did, as facts tell of it."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from esper_es.domain.facts.finite import finite_number


@frozen(kw_only=True)
class Effects:
    """What a structural change did, measured before it was committed.

    Attributes:
        output_difference: largest absolute change of any example output over the largest absolute output, in
            eval mode; None when outputs can't be compared.
        parameters_before: scalar parameters before.
        parameters_after: scalar parameters after.
        bytes_before: bytes of parameters and buffers before.
        bytes_after: the same after.
        memory_bytes: estimated training memory after.
        graph_depth: parametrised operations on the longest path after.
        optimizer: by tensor name, what became of its optimizer state: ``"resized"``, ``"new"``,
            ``"removed"``, ``"kept"`` where a tensor moved; tensors not named were kept untouched.
        duration_ms: time from the call to just before the commit.
        validators: verdicts of the validator chain by name.
    """

    output_difference: float | None = field(default=None, validator=finite_number)
    parameters_before: int = 0
    parameters_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    memory_bytes: int = 0
    graph_depth: int = 0
    optimizer: Mapping[str, str] = field(factory=dict)
    duration_ms: float = field(default=0.0, validator=finite_number)
    validators: Mapping[str, str] = field(factory=dict)
