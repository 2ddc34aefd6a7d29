"""Tables that hold the architecture of every model at every version."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Index, Table

from esper_es.projections.audit.columns import count, json, over_versions, text
from esper_es.projections.schema import metadata

layers: Final = Table(
    "layers",
    metadata,
    *over_versions(
        text("path", "dotted path of the module; empty for the model itself", primary_key=True),
        text("kind", "registered layer kind, or opaque:<ClassName>"),
        json("config", "what its kind needs to build it again, a JSON object"),
        count("parameters", "scalar parameters of its own; those of its children are not counted"),
        count("bytes", "bytes of its own parameters and buffers"),
    ),
    comment="modules over versions",
)

placements: Final = Table(
    "placements",
    metadata,
    *over_versions(
        text("path", "dotted path of a module that is a child of another", primary_key=True),
        text("parent", "dotted path of its parent; empty for the model itself"),
        count("position", "its place among the children of its parent, from 0"),
    ),
    Index(None, "model_id", "parent"),
    comment="order of the children of each module over versions; shared modules stand at each of their paths",
)

tensors: Final = Table(
    "tensors",
    metadata,
    *over_versions(
        text("name", "name in the state dict", primary_key=True),
        text("layer", "dotted path of the module that owns it"),
        json("shape", "sizes of its dimensions, a JSON array"),
        text("dtype", "torch's name of its dtype, without the torch. in front"),
        text("role", "parameter, buffer, or transient (a buffer outside the state dict)"),
        count("elements", "number of its elements"),
        count("bytes", "its bytes"),
    ),
    Index(None, "model_id", "layer"),
    comment="parameters and buffers over versions; tied ones under one name",
)

connections: Final = Table(
    "connections",
    metadata,
    *over_versions(
        text("connection", "id of the connection", primary_key=True),
        text("kind", "skip (source joins target) or after (via runs on the output of source)"),
        text("source", "module whose output is taken"),
        text("target", "module whose output is changed"),
        text("via", "module that the taken output passes through; NULL for none", nullable=True),
        count("position", "order among connections that act on the same module"),
        text("joined_by", "how a skip joins, e.g. add; empty for after"),
    ),
    comment="paths of the data flow that were added to the modules' own, over versions",
)

shared_names: Final = Table(
    "shared_names",
    metadata,
    *over_versions(
        text("name", "second path of a shared module, or second name of a tied tensor", primary_key=True),
        text("what", "module or tensor"),
        text("origin", "path or name under which it is described"),
    ),
    comment="modules and tensors that go by more than one name, over versions",
)
