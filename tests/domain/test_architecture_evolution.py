"""Edits on the architecture value."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from esper_es.domain.architecture import Architecture, Connection, ModuleNode, TensorSpec
from esper_es.domain.edits import (
    Connect,
    Disconnect,
    Edit,
    Initial,
    RemoveModule,
    ReplaceModule,
    ResizeTensor,
    ScaleTensor,
    SetAttribute,
    SetScalar,
)
from esper_es.domain.evolution import evolved
from esper_es.domain.index_map import IndexMap

from .small_model import BASE, adding, leaf, linear, parameter

RELU = leaf(ModuleNode("relu"))
SKIP = Connection("s1", "skip", "first", "last", None, 1, "add")
TIED = Architecture(
    {
        "": ModuleNode("pair", children=("one", "two", "three")),
        "one": linear(8, 8),
        "two": ModuleNode("linear", {}, {"bias": parameter(8)}),
    },
    aliases={"three": "one"},
    ties={"two.weight": "one.weight"},
)

names = st.sampled_from(["a", "b", "c"])
leaves = st.builds(leaf, st.builds(linear, st.integers(1, 9), st.integers(1, 9)))
pairs = st.builds(
    lambda inner: Architecture({"": ModuleNode("block", children=("inner",)), "inner": inner.nodes[""]}),
    leaves,
)
fragments = leaves | pairs | st.just(RELU) | st.just(TIED)
places = st.sampled_from(["", "block"])
after = st.sampled_from([None, "first", "act", "last"])


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    """The base model after a few additions."""
    architecture = evolved(BASE, [adding("block", Architecture({"": ModuleNode("block")}), "act")])
    for name in draw(st.lists(names, unique=True)):
        parent = draw(places)
        path = f"{parent}.{name}" if parent else name
        architecture = evolved(architecture, [adding(path, draw(fragments), None)])
    return architecture


@given(architectures(), fragments, after)
def test_removing_a_module_undoes_adding_it(
    before: Architecture, fragment: Architecture, at: str | None
) -> None:
    assert evolved(before, [adding("new", fragment, at), RemoveModule("new")]) == before


@given(architectures(), fragments)
def test_an_added_module_is_the_fragment_that_was_added(before: Architecture, fragment: Architecture) -> None:
    assert evolved(before, [adding("block.new", fragment, None)]).subtree("block.new") == fragment


@given(architectures(), fragments)
def test_replacing_a_module_is_removing_and_adding_in_its_place(
    before: Architecture, fragment: Architecture
) -> None:
    replaced = evolved(before, [ReplaceModule("act", fragment, Initial())])
    assert replaced == evolved(before, [RemoveModule("act"), adding("act", fragment, "first")])


@given(architectures())
def test_the_fingerprint_does_not_depend_on_the_order_in_which_modules_became_known(
    architecture: Architecture,
) -> None:
    nodes = dict(reversed(list(architecture.nodes.items())))
    assert Architecture(nodes, aliases=architecture.aliases, ties=architecture.ties).fingerprint == (
        architecture.fingerprint
    )


@given(architectures(), fragments, after)
def test_the_value_that_an_edit_starts_from_stays_as_it_was(
    before: Architecture, fragment: Architecture, at: str | None
) -> None:
    fingerprint = before.fingerprint
    after_it = evolved(before, [adding("new", fragment, at)])
    assert evolve(before).fingerprint == fingerprint
    assert after_it.fingerprint != fingerprint


@pytest.mark.parametrize(
    "changed",
    [
        BASE.with_node("act", ModuleNode("gelu", {"inplace": False})),
        BASE.with_node("act", ModuleNode("relu", {"inplace": True})),
        BASE.with_node("first", linear(4, 9)),
        BASE.with_node("", ModuleNode("sequential", children=("act", "first", "last"))),
        evolve(BASE, connections=(SKIP,)),
        evolve(BASE, ties={"x.weight": "first.weight"}),
        evolve(BASE, aliases={"x": "act"}),
    ],
    ids=["kind", "config", "shape", "order", "connection", "tie", "alias"],
)
def test_the_fingerprint_covers_everything_that_matters(changed: Architecture) -> None:
    assert changed.fingerprint != BASE.fingerprint


@pytest.mark.parametrize(
    ("at", "children"),
    [
        (None, ("first", "act", "last", "new")),
        ("first", ("first", "new", "act", "last")),
        ("last", ("first", "act", "last", "new")),
    ],
)
def test_a_module_comes_right_after_its_sibling(at: str | None, children: tuple[str, ...]) -> None:
    assert evolved(BASE, [adding("new", RELU, at)]).nodes[""].children == children


def test_what_a_fragment_shares_inside_is_shared_in_the_model() -> None:
    model = evolved(BASE, [adding("new", TIED)])
    assert model.tensor("new.two.weight") == model.tensor("new.one.weight")
    assert model.aliases == {"new.three": "new.one"}
    assert model.parameter_count == BASE.parameter_count + 64 + 8 + 8


def test_a_module_whose_tensor_has_a_second_name_elsewhere_is_not_removed() -> None:
    model = evolve(BASE, ties={"last.twin": "first.weight"})
    with pytest.raises(ValueError, match=r"'first\.weight' is shared as 'last\.twin', which would lose it"):
        evolved(model, [RemoveModule("first")])


def test_a_module_that_has_a_second_name_elsewhere_is_not_removed() -> None:
    model = evolved(BASE, [adding("new", TIED)])
    with pytest.raises(ValueError, match=r"'new\.one' is shared as 'new\.three', which would lose it"):
        evolved(model, [RemoveModule("new.one")])


def test_a_module_whose_tensor_is_described_elsewhere_is_removed_with_its_tie() -> None:
    model = evolved(BASE, [adding("new", TIED), RemoveModule("new.two")])
    assert model.ties == {}


def test_a_replaced_module_keeps_a_tie_whose_tensor_is_still_there() -> None:
    model = evolve(BASE, ties={"last.twin": "first.weight"})
    wider = evolved(model, [ReplaceModule("first", leaf(linear(4, 9)), Initial())])
    assert wider.tensor("last.twin").shape == (9, 4)


def test_resizing_gathers_one_dimension() -> None:
    gather = IndexMap.of([0, 0, 1, -1, -1, 7])
    assert evolved(BASE, [ResizeTensor("first.weight", 0, gather)]).tensor("first.weight").shape == (6, 4)


def test_resizing_a_tied_tensor_resizes_the_tensor_it_is_tied_to() -> None:
    model = evolved(BASE, [adding("new", TIED), ResizeTensor("new.two.weight", 1, IndexMap.of(range(3)))])
    assert model.tensor("new.one.weight").shape == (8, 3)


def test_setting_an_attribute_changes_the_config() -> None:
    model = evolved(BASE, [SetAttribute("first", "out_features", 9)])
    assert model.nodes["first"].config == {"in_features": 4, "out_features": 9, "bias": True}


@pytest.mark.parametrize("edit", [SetScalar("first.bias", 0.5), ScaleTensor("first.bias", 2.0)])
def test_edits_of_values_do_not_change_the_architecture(edit: Edit) -> None:
    assert evolved(BASE, [edit]) == BASE


def test_disconnecting_undoes_connecting() -> None:
    assert evolved(BASE, [Connect(SKIP), Disconnect("s1")]) == BASE


def test_a_connection_acts_on_both_its_ends() -> None:
    model = evolved(BASE, [Connect(SKIP)])
    assert model.acting_on("first") == model.acting_on("last") == model.skips() == (SKIP,)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (adding("act", RELU), "a module at 'act' already"),
        (adding("nowhere.new", RELU), "no module at 'nowhere'"),
        (adding("new", RELU, "nobody"), "no 'nobody' in '' to come after"),
        (RemoveModule("nowhere"), "no module at 'nowhere'"),
        (RemoveModule(""), "the root module cannot be removed"),
        (ReplaceModule("nowhere", RELU, Initial()), "no module at 'nowhere'"),
        (ResizeTensor("first.nothing", 0, IndexMap.of([0])), r"no tensor 'first\.nothing'"),
        (ResizeTensor("first.weight", 0, IndexMap.of([8])), "reads 9 entries of a dimension of 8"),
        (ResizeTensor("first.weight", 2, IndexMap.of([0])), "has 2 dimensions, there is no 2"),
        (ResizeTensor("first.weight", -1, IndexMap.of([0])), "has 2 dimensions, there is no -1"),
        (SetAttribute("nowhere", "x", 1), "no module at 'nowhere'"),
        (SetScalar("act.alpha", 1.0), r"no tensor 'act\.alpha'"),
        (ScaleTensor("nowhere.weight", 1.0), r"no tensor 'nowhere\.weight'"),
        (Connect(evolve(SKIP, target="nowhere")), "no module at 'nowhere'"),
        (Connect(evolve(SKIP, via="nowhere")), "no module at 'nowhere'"),
        (Disconnect("s1"), "no connection 's1'"),
    ],
)
def test_an_edit_that_does_not_fit_is_an_error(edit: Edit, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evolved(BASE, [edit])


def test_the_same_connection_is_made_once() -> None:
    with pytest.raises(ValueError, match="a connection 's1' already"):
        evolved(BASE, [Connect(SKIP), Connect(SKIP)])


def test_counts_leave_out_buffers_and_bytes_do_not() -> None:
    buffer = TensorSpec((3,), "int64", "buffer")
    model = BASE.with_node("act", ModuleNode("relu", {}, {"steps": buffer}))
    assert (model.parameter_count, model.nbytes) == (58, 58 * 4 + 3 * 8)
