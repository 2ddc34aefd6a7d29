"""Text that fits, and cannot steer a terminal."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

from esper_es.cli.layout import Hanging, Rows, listed, pairs, printable, signed, size, words

TEXTS = st.text(max_size=200)
WIDTHS = st.integers(20, 120)


def rendered(line: RenderableType, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(line)
    return captured.get().split("\n")[:-1]


@given(TEXTS)
def test_printable_text_is_printable(text: str) -> None:
    assert printable(text).isprintable() or printable(text) == ""


@given(
    st.text(st.characters(categories=("L", "N", "P", "S", "Zs"), exclude_characters="\u00a0"), max_size=50)
)
def test_text_without_control_characters_stays_as_it_is(text: str) -> None:
    visible = "".join(c for c in text if c.isprintable())
    assert printable(visible) == visible


@given(TEXTS, TEXTS, WIDTHS)
def test_paragraphs_fit_the_width(head: str, body: str, width: int) -> None:
    lines = rendered(Hanging(words(head), words(body)), width)
    assert all(cell_len(line) <= width for line in lines)


@given(TEXTS, TEXTS, WIDTHS)
def test_one_line_is_one_line(head: str, body: str, width: int) -> None:
    (line,) = rendered(Hanging(words(head), words(body), one_line=True), width)
    assert cell_len(line) <= width


@given(st.lists(st.tuples(TEXTS, st.integers(), st.floats(allow_nan=False)), max_size=5), WIDTHS)
def test_tables_fit_the_width(rows: list[tuple[str, int, float]], width: int) -> None:
    lines = rendered(Rows(("name", "count", "share"), rows), width)
    assert all(cell_len(line) <= width for line in lines)


def test_a_digest_that_fits_a_line_is_not_broken() -> None:
    digest = f"sha256:{'0' * 64}"
    lines = [line for pair in pairs([("a_long_name_of_something", digest)]) for line in rendered(pair, 80)]
    assert lines == ["a_long_name_of_something", f"    {digest}"]


def test_further_lines_are_indented_below_the_first() -> None:
    assert rendered(Hanging(Text("ab  "), Text("one two three")), 12) == ["ab  one two", "    three"]


@pytest.mark.parametrize(
    ("nbytes", "expected"),
    [(0, "0 bytes"), (1, "1 byte"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (3 << 30, "3.0 GiB")],
)
def test_sizes_are_readable(nbytes: int, expected: str) -> None:
    assert size(nbytes).replace(",", "") == expected


def test_differences_carry_their_sign() -> None:
    assert [signed(n) for n in (1200, 0, -3)] == ["+1,200", "0", "-3"]


def test_long_lists_are_cut_short() -> None:
    assert listed([str(n) for n in range(5)], most=3) == "0, 1, 2 and 2 more"
