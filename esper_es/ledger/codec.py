"""Facts as rows: an envelope to a topic and the bytes of a JSON object, and back.

The topic is ``"<stored name>/<schema version>"`` from ``domain/catalog.py``. The object has exactly the
fields of ``_Body``; every field of every value is written, defaults included, so that a later default never
changes what an old row means. Three kinds of value are written shorter than as objects:

- ``TensorSpec``, ``ModuleNode`` and ``Connection``: a list of their fields, in order;
- ``IndexMap``: the list of its runs;
- an edit: an object with its name from ``EDIT_NAMES`` under ``"edit"`` beside its fields.

What edits have in common, and index maps that stand in several places, are written once (``folding.py``).

Reading is strict: a missing field, one too many, or a value of another type is an error. Only classes named
here or by the catalog are ever built, so stored data cannot run code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from reprlib import repr as shown
from typing import Any, Final, TypeAlias, TypeVar, get_args, get_origin
from uuid import UUID

import orjson
from attrs import fields, frozen, has, resolve_types
from cattrs import Converter, transform_error
from cattrs.gen import make_dict_structure_fn

from esper_es.domain.architecture import Connection, ModuleNode, TensorSpec
from esper_es.domain.canonical import Json
from esper_es.domain.catalog import BY_CLASS, entry_named, upcast
from esper_es.domain.edits import EDIT_NAMES, Edit
from esper_es.domain.envelope import Cause, Envelope
from esper_es.domain.errors import IntegrityFailure, UsageError
from esper_es.domain.index_map import IndexMap
from esper_es.ledger.folding import folded, unfolded
from esper_es.ledger.rows import join_topic, split_topic
from esper_es.ledger.shared_maps import LONGEST
from esper_es.ledger.unreadable import Unreadable

T = TypeVar("T")
_Hook: TypeAlias = Callable[[Any, Any], Any]

_SMALLEST: Final = -(2**63)
_LARGEST: Final = 2**64 - 1
_EDIT: Final = "edit"
_EDIT_KINDS: Final[Mapping[str, type]] = {name: kind for kind, name in EDIT_NAMES.items()}
_POSITIONAL: Final[frozenset[type]] = frozenset({TensorSpec, ModuleNode, Connection})


@frozen(kw_only=True)
class _Body:
    """The JSON object of one row: the fields of ``Envelope``, less its address."""

    at: str
    epoch: int
    step: int
    cause: Cause
    fact: Mapping[str, Json]


def encode(envelope: Envelope) -> tuple[str, bytes]:
    """Return the topic and the body under which an envelope is stored.

    A tuple inside a JSON value (a config, an argument) is stored as a list, and comes back as one.

    Raises:
        UsageError: for a value that could not be read back: a number that is not finite, an integer beyond 64
            bits, a key that is not a string, a field of another type than its class declares.
    """
    kind = type(envelope.fact)
    entry = BY_CLASS.get(kind)
    if entry is None:
        raise UsageError(f"{kind.__name__} has no stored name; add it to domain/catalog.py")
    label = f"{entry.name} as version {envelope.originator_version} of model {envelope.originator_id}"
    try:
        plain = _fields(envelope)
        _structured(_Body, plain, "")
        _structured(entry.cls, plain["fact"], "fact")
        plain["fact"] = folded(plain["fact"])
        return join_topic(entry.name, entry.schema), orjson.dumps(plain)
    except Unreadable as error:
        raise UsageError(f"{label} cannot be stored: {error}") from None
    except RecursionError:
        raise UsageError(f"{label} cannot be stored: a value is nested too deep, or in itself") from None
    except orjson.JSONEncodeError as error:
        raise UsageError(f"{label} cannot be stored: {error}") from None


def decode(model_id: UUID, version: int, topic: str, state: bytes) -> Envelope:
    """Return the envelope that a stored row holds, carried forward to the current schema of its fact.

    Args:
        model_id: model to whose log the row belongs.
        version: its version there.
        topic: ``"<stored name>/<schema version>"``.
        state: the stored body. Upcasters see its ``"fact"`` object, unfolded.

    Raises:
        LedgerError: for a fact of a newer release: an unknown name or a newer schema.
        IntegrityFailure: for a body that ``encode`` did not write; it names model, version and field.
    """
    name, schema = split_topic(topic)
    label = f"version {version} of model {model_id} ({topic})"
    if schema < 1:
        raise IntegrityFailure(f"{label}: the topic is not '<name>/<schema version>'; the row was altered")
    entry = entry_named(name, schema)
    try:
        body = _structured(_Body, orjson.loads(state), "")
        fact: Any = unfolded(dict(body.fact))
        if schema != entry.schema:
            fact = upcast(entry, schema, fact)
        return Envelope(
            originator_id=model_id,
            originator_version=version,
            at=body.at,
            epoch=body.epoch,
            step=body.step,
            cause=body.cause,
            fact=_structured(entry.cls, fact, "fact"),
        )
    except orjson.JSONDecodeError as error:
        raise IntegrityFailure(f"{label}: the body is not JSON ({error}); the row was altered") from None
    except Unreadable as error:
        raise IntegrityFailure(f"{label}: {error}; the row was altered") from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # raised by an upcaster
        raise IntegrityFailure(f"{label}: the body does not fit schema {schema}; {error!r}") from error


def _fields(envelope: Envelope) -> dict[str, Json]:
    """Return the fields of a body: quickly, and only when that fails a second time to learn where."""
    try:
        return {name: _plain(getattr(envelope, name), "") for name in _names(_Body)}
    except Unreadable:
        return {name: _plain(getattr(envelope, name), name) for name in _names(_Body)}


def _plain(value: object, where: str) -> Json:
    """Return a value as JSON, or say where it cannot be one; ``where`` is followed only if it is not empty."""
    match value:
        case None | bool():
            return value
        case str():
            return str.__str__(value)
        case int() if _SMALLEST <= value <= _LARGEST:
            return int(value)
        case int():
            raise Unreadable(f"{where} is {value}, beyond 64 bits")
        case float() if math.isfinite(value):
            return float(value)
        case float():
            raise Unreadable(f"{where} is {value}; facts hold finite numbers only")
        case IndexMap():
            return [list(run) for run in value.runs]
        case Mapping():
            return {
                _key(key, where): _plain(item, where and f"{where}[{key!r}]") for key, item in value.items()
            }
        case list() | tuple():
            return [_plain(item, where and f"{where}[{index}]") for index, item in enumerate(value)]
    kind: Any = type(value)
    names = _names(kind)
    if not names:
        raise Unreadable(f"{where} is a {kind.__name__}; facts hold JSON values only")
    attributes = {name: _plain(getattr(value, name), where and f"{where}.{name}") for name in names}
    if kind in _POSITIONAL:
        return list(attributes.values())
    return {_EDIT: EDIT_NAMES[kind], **attributes} if kind in EDIT_NAMES else attributes


def _key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise Unreadable(f"{where} has the key {key!r}; keys are strings")
    return str.__str__(key)


@cache
def _names(kind: Any) -> tuple[str, ...]:
    """Return the fields of an attrs class; other classes have none."""
    return tuple(attribute.name for attribute in fields(kind)) if has(kind) else ()


def _structured(kind: type[T], value: object, where: str) -> T:
    """Build an attrs value from JSON: quickly, and only when that fails a second time to learn where."""
    try:
        return _converter(detailed=False).structure(value, kind)
    except (TypeError, ValueError, LookupError, RecursionError) as error:
        raise Unreadable(_explained(kind, value, where) or str(error)) from None


def _explained(kind: type, value: object, where: str) -> str:
    try:
        _converter(detailed=True).structure(value, kind)
    except Exception as error:  # noqa: BLE001 - cattrs groups whatever the hooks and validators raised
        reasons = transform_error(error, where, lambda reason, _: str([*reason.args, reason][0]))
        what, _, place = reasons[0].rpartition(" @ ")
        return f"{place.lstrip('.') or 'the body'}: {what}"
    return ""


@cache
def _converter(*, detailed: bool) -> Converter:
    """Return the reader; a detailed one is slower and its errors know the path to the value."""
    converter = Converter(detailed_validation=detailed)
    converter.register_structure_hook(str, _scalar_hook("a string", str))
    converter.register_structure_hook(bool, _scalar_hook("true or false", bool))
    converter.register_structure_hook(int, _scalar_hook("an integer", int))
    converter.register_structure_hook(float, _scalar_hook("a number", float, int))
    converter.register_structure_hook_factory(has, _object_hook)
    converter.register_structure_hook_factory(lambda kind: kind in _POSITIONAL, _positional_hook)
    converter.register_structure_hook_factory(lambda kind: kind is IndexMap, _index_map_hook)
    converter.register_structure_hook_func(lambda kind: kind == Edit, _edit_hook(converter))
    converter.register_structure_hook_factory(_is_mapping, _mapping_hook)
    converter.register_structure_hook_factory(_is_homogeneous_tuple, _tuple_hook)
    return converter


def _is_mapping(kind: Any) -> bool:
    return get_origin(kind) is Mapping


def _is_homogeneous_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis


def _scalar_hook(wanted: str, *kinds: type) -> _Hook:
    def read(value: Any, _: Any) -> Any:
        if type(value) not in kinds:
            raise Unreadable(f"must be {wanted}, got {shown(value)}")
        return value

    return read


def _object_hook(kind: Any, converter: Converter) -> _Hook:
    return _record_hook(kind, converter, frozenset(_names(kind)))


def _record_hook(kind: Any, converter: Converter, expected: frozenset[str]) -> _Hook:
    """Read an object that has exactly the expected fields."""
    build = make_dict_structure_fn(resolve_types(kind), converter)

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise Unreadable(f"must be an object, got {shown(value)}")
        if value.keys() != expected:
            missing, unknown = sorted(expected - value.keys()), sorted(value.keys() - expected)
            raise Unreadable(f"has wrong fields: missing {missing}, unknown {unknown}")
        return build(value, kind)

    return read


def _positional_hook(kind: Any, converter: Converter) -> _Hook:
    names, build = _names(kind), make_dict_structure_fn(resolve_types(kind), converter)

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, list) or len(value) != len(names):
            raise Unreadable(f"must be a list of {', '.join(names)}; got {shown(value)}")
        return build(dict(zip(names, value, strict=True)), kind)

    return read


def _index_map_hook(_: Any, converter: Converter) -> _Hook:
    runs: Any = tuple[tuple[int, int], ...]
    build = converter.get_structure_hook(runs)
    known = lru_cache(128)(lambda spelling: IndexMap(build(orjson.loads(spelling), runs)))

    def read(value: Any, _: Any) -> IndexMap:
        is_short = isinstance(value, list) and len(value) <= LONGEST
        return known(orjson.dumps(value)) if is_short else IndexMap(build(value, runs))

    return read


def _edit_hook(converter: Converter) -> _Hook:
    """Read an object as the edit that its tag names."""

    @cache
    def hook(kind: Any) -> _Hook:
        return _record_hook(kind, converter, frozenset({*_names(kind), _EDIT}))

    def read(value: Any, _: Any) -> Any:
        name = value.get(_EDIT) if isinstance(value, dict) else None
        kind = _EDIT_KINDS.get(name) if isinstance(name, str) else None
        if kind is None:
            raise Unreadable(f"must be an edit, one of {', '.join(_EDIT_KINDS)}; got {shown(value)}")
        return hook(kind)(value, kind)

    return read


def _mapping_hook(kind: Any, converter: Converter) -> _Hook:
    item = get_args(kind)[1]
    plain: Any = dict[str, item]  # type: ignore[valid-type]
    build = None if item is Any else converter.get_structure_hook(plain)

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise Unreadable(f"must be an object, got {shown(value)}")
        return build(value, plain) if build else value

    return read


def _tuple_hook(kind: Any, converter: Converter) -> _Hook:
    item = get_args(kind)[0]
    plain: Any = list[item]  # type: ignore[valid-type]
    build = converter.get_structure_hook(plain)

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, list):
            raise Unreadable(f"must be a list, got {shown(value)}")
        return tuple(build(value, plain))

    return read
