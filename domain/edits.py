"""The closed vocabulary between planners and the live projection: every change is a list of these."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from esper_es.domain.architecture import Architecture, Connection
from esper_es.domain.canonical import Json
from esper_es.domain.index_map import IndexMap


@frozen
class Fill:
    """Where the new entries of a resized tensor come from.

    Attributes:
        initializer: a registered initializer's name.
        arguments: its arguments, e.g. ``{"fan_in": 72}``.
        seed: seeds its generator.
        digest: digest of the new slice (the tensor's shape with the number of new entries along the
            dimension), or of a flat tensor that holds it; None when the initializer is a constant.
        offset: first element of the slice in that flat tensor, in row-major order; None when the digest is
            the slice's own.
    """

    initializer: str
    arguments: Mapping[str, float] = field(factory=dict)
    seed: int = 0
    digest: str | None = None
    offset: int | None = None


@frozen
class Initial:
    """Where the tensors of a new module come from.

    Attributes:
        tensors: digests of its tensors by name relative to the module.
        seed: seeds the generator from which they can be derived again, by the layers' own initialisation.
        fills: tensors that are initialised otherwise after that, e.g. with zeros.
        given: whether the caller built the module, so that ``seed`` does not give the bytes of ``tensors``.
    """

    tensors: Mapping[str, str] = field(factory=dict)
    seed: int = 0
    fills: Mapping[str, Fill] = field(factory=dict)
    given: bool = False


@frozen
class AddModule:
    """Register a module built from ``fragment`` at ``path``.

    Attributes:
        path: where; the parent exists.
        fragment: what, with paths relative to it.
        after: local name of the sibling it follows, or None to come last.
        initial: its first tensors.
        like: path of the module whose optimizer groups, device and dtype it takes.
    """

    path: str
    fragment: Architecture
    after: str | None
    initial: Initial
    like: str


@frozen
class RemoveModule:
    """Take the module at ``path`` out of its parent, with all below it."""

    path: str


@frozen
class ReplaceModule:
    """Put a module built from ``fragment`` in the place of the one at ``path``.

    Attributes:
        path: where.
        fragment: what, with paths relative to it.
        initial: its first tensors, kept ones left out.
        keep: path relative to the old module of a descendant that goes into the new module, with its live
            tensors and optimizer state; None to keep nothing.
        keep_as: path relative to the new module where the kept one goes.
    """

    path: str
    fragment: Architecture
    initial: Initial
    keep: str | None = None
    keep_as: str = ""


@frozen
class ResizeTensor:
    """Gather a tensor along one dimension: grow it, shrink it, or both.

    Attributes:
        tensor: state-dict name.
        dim: the dimension.
        gather: old index of each new index.
        fill: source of the new entries; None when there are none.
    """

    tensor: str
    dim: int
    gather: IndexMap
    fill: Fill | None = None


@frozen
class ScaleTensor:
    """Multiply a tensor by a number, e.g. to fold a seed's alpha into its last affine layer.

    Attributes:
        tensor: state-dict name.
        factor: applied in the tensor's own dtype.
    """

    tensor: str
    factor: float


@frozen
class ScaleSlice:
    """Multiply some entries along one dimension of a tensor by a number.

    Attributes:
        tensor: state-dict name.
        dim: the dimension.
        indices: the entries.
        factor: applied in the tensor's own dtype.
    """

    tensor: str
    dim: int
    indices: IndexMap
    factor: float


@frozen
class SetAttribute:
    """Set a plain attribute of a module, e.g. ``out_features``; the module's config shows it from then on.

    Attributes:
        path: of the module.
        name: of the attribute; dotted to reach into a plain object that the module holds: ``config.hidden_size``.
        value: numbers, strings, and lists of them, which stay tuples where the attribute is one.
    """

    path: str
    name: str
    value: Json


@frozen
class SetScalar:
    """Fill a zero-dimensional buffer, e.g. a seed's alpha. The architecture does not change."""

    tensor: str
    value: float


@frozen
class Connect:
    """Add a path to the data flow."""

    connection: Connection


@frozen
class Disconnect:
    """Take an added path away again."""

    id: str


Edit = (
    AddModule
    | RemoveModule
    | ReplaceModule
    | ResizeTensor
    | ScaleTensor
    | ScaleSlice
    | SetAttribute
    | SetScalar
    | Connect
    | Disconnect
)

EDIT_NAMES: Mapping[type, str] = {
    AddModule: "add_module",
    RemoveModule: "remove_module",
    ReplaceModule: "replace_module",
    ResizeTensor: "resize_tensor",
    ScaleTensor: "scale_tensor",
    ScaleSlice: "scale_slice",
    SetAttribute: "set_attribute",
    SetScalar: "set_scalar",
    Connect: "connect",
    Disconnect: "disconnect",
}
"""Stored names of edits. A name, once released, means the same for ever."""


def digests_of(edit: Edit) -> dict[str, str]:
    """Return the digests of the tensors that an edit brings in, by state-dict name."""
    if isinstance(edit, (AddModule, ReplaceModule)):
        named = dict(edit.initial.tensors)
        named |= {name: fill.digest for name, fill in edit.initial.fills.items() if fill.digest is not None}
        return {f"{edit.path}.{name}": digest for name, digest in named.items()}
    if isinstance(edit, ResizeTensor) and edit.fill is not None and edit.fill.digest is not None:
        return {edit.tensor: edit.fill.digest}
    return {}
