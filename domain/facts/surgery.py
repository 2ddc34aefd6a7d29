"""Surgeries, done or refused."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from esper_es.domain.canonical import Json
from esper_es.domain.edits import Edit
from esper_es.domain.facts.effects import Effects
from esper_es.domain.facts.finite import finite_number
from esper_es.domain.index_map import IndexMap


@frozen(kw_only=True)
class LayerAdded:
    """A layer was inserted after another."""

    layer_name: str
    after_layer: str
    connection_type: str
    kind: str
    edits: tuple[Edit, ...]
    effects: Effects
    base_capture: int | None


@frozen(kw_only=True)
class LayerRemoved:
    """A layer was taken out and its neighbours bridged."""

    layer_name: str
    bridge_strategy: str
    adapter_added: bool
    bridge_r2: float | None = field(default=None, validator=finite_number)
    edits: tuple[Edit, ...]
    effects: Effects
    base_capture: int | None


@frozen(kw_only=True)
class LayerWidthModified:
    """A layer became wider or narrower, and everything that is fed by it followed.

    Attributes:
        layer_name: the layer.
        old_width: channels before.
        new_width: channels after.
        initialization: asked for.
        kept_units: old ordinal of each unit that stayed, when the layer became narrower.
        dimension: of the layer's weight that was resized; None where nobody recorded it.
        units: how many units (channels, heads, channels of each head) there were before and are after; None where
            nobody recorded it.
        method: what was done about new entries, in a few words.
        edits: what was done.
        effects: what it did.
        base_capture: version of the capture right before.
    """

    layer_name: str
    old_width: int
    new_width: int
    initialization: str
    kept_units: IndexMap | None = None
    dimension: int | None = None
    units: tuple[int, int] | None = None
    method: str = ""
    edits: tuple[Edit, ...]
    effects: Effects
    base_capture: int | None


@frozen(kw_only=True)
class SkipConnectionAdded:
    """The output of one layer now joins the output of a later one."""

    from_layer: str
    to_layer: str
    connection_type: str
    connection_id: str
    projection: str | None
    edits: tuple[Edit, ...]
    effects: Effects
    base_capture: int | None


@frozen(kw_only=True)
class SkipConnectionRemoved:
    """The output of one layer no longer joins the output of a later one; the projection between them went too."""

    from_layer: str
    to_layer: str
    connection_id: str
    edits: tuple[Edit, ...]
    effects: Effects
    base_capture: int | None


@frozen(kw_only=True)
class SurgeryRefused:
    """An operation on the model was refused or failed; nothing changed.

    Attributes:
        operation: e.g. ``"add_layer"``.
        target: the layer or seed it was about.
        arguments: what was asked for.
        check: stable name of the rule or validator that said no.
        reason: for a person.
        state_restored: whether the live model was compared with its state before, and found identical; None
            when it was never touched.
    """

    operation: str
    target: str
    arguments: Mapping[str, Json]
    check: str
    reason: str
    state_restored: bool | None = None
