"""The hash of a link keeps its fields apart, and a topic survives being kept in two columns."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from esper_es.ledger.chain import link_hash
from esper_es.ledger.rows import join_topic, split_topic

names = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(names, names, st.binary(max_size=8), st.integers(0, 99), st.data())
def test_moving_a_character_between_fields_changes_the_hash(
    topic: str, at: str, body: bytes, version: int, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(topic + at)))
    moved = (topic + at)[:cut], (topic + at)[cut:]
    same = moved == (topic, at)
    hashes = link_hash("", "m", version, topic, at, body), link_hash("", "m", version, *moved, body)
    assert (hashes[0] == hashes[1]) is same


@given(st.one_of(names, st.from_regex(r"[a-z.]{1,5}/[0-9]{1,12}", fullmatch=True)))
def test_every_topic_survives_being_split(topic: str) -> None:
    assert join_topic(*split_topic(topic)) == topic


def test_a_hash_can_be_computed_without_this_package() -> None:
    # printf '4:prev,2:id,1:7,3:a/1,2:at,2:{},' | sha256sum
    assert link_hash("prev", "id", 7, "a/1", "at", b"{}") == (
        "3473082ccb9f5528d383ad90cbe28ecb03d1cd5e46dc4c7310488d1b4ef868c0"
    )
