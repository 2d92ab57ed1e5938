"""What may be a name, and how text of others is shown."""

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.text import SHOWN_CHARS, check_one_line, is_one_line, one_line, shown
from tests.cases import each

MOVING = [
    *map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u2028", "\u2029",
    "\u061c", "\u200e", "\u200f", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A)),
    "\ud800", "\udcff", "\udfff",
]  # fmt: skip


@each("mark", MOVING)
@each("text", ["{}", "a{}", "{}a", "name {}of two words"])
def test_what_moves_a_cursor_or_turns_text_around_is_no_name_and_is_shown_escaped(mark: str, text: str) -> None:
    name = text.format(mark)
    assert not is_one_line(name)
    with pytest.raises(ValueError, match="one line"):
        one_line(name)
    with pytest.raises(GatewayError) as caught:
        check_one_line(name, "tag")
    assert (caught.value.code, caught.value.param) == ("invalid_value", "tag")
    assert mark not in caught.value.message
    assert shown(name) == text.format(mark.encode("unicode_escape").decode())
    assert shown(name).isprintable()


@each("name", ["", "CI", "naïve 日本 🎉", "👨‍👩‍👧", "שלום", "a\u00a0b", 'quotes " and \\', "x" * 5000])
def test_what_people_write_is_a_name(name: str) -> None:
    assert one_line(name) == name
    check_one_line(name, "name")


def test_a_text_is_shown_to_about_a_hundred_characters() -> None:
    assert shown("x" * SHOWN_CHARS) == "x" * SHOWN_CHARS
    assert shown("x" * 10_000) == "x" * SHOWN_CHARS + "…"
    assert shown("x" * 10_000, 5) == "xxxxx…"
