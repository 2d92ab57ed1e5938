"""What the console reads and shows, without a gateway: forms, where to go on, amounts and counts."""

import re
from html import unescape

import pytest

from http_api.console.forms import Form
from http_api.console.view import compact, money
from http_api.keys import NewKey
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.web_address import local_path
from tests.cases import each


@pytest.mark.parametrize(
    "sent", [b"name=%FF", b"\xff\xfe", b"a=1&" * 300], ids=["a broken escape", "no text", "too many fields"]
)
def test_what_no_browser_sends_is_refused(sent: bytes) -> None:
    with pytest.raises(GatewayError, match="invalid_value"):
        Form.read(sent)


def test_a_field_cannot_be_of_two_kinds() -> None:
    with pytest.raises(GatewayError, match="invalid_value"):
        Form([("budgets", "x"), ("budgets.0.amount_usd", "1")]).as_body(NewKey)


@each(
    "wanted",
    [
        "",
        "keys",
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "/a\\b",
        "/ä",
        "/a\n",
        "/" + 6000 * "a",
    ],
)
def test_only_a_path_of_the_gateway_s_is_gone_on_to(wanted: str) -> None:
    assert local_path(wanted, "/home") == "/home"


@each(
    ("usd", "shown"),
    [
        ("0", "$0.00"), ("12.345", "$12.34"), ("1234.5", "$1,234.50"), ("-3", "-$3.00"), ("0.25", "$0.2500"),
        ("0.000000001", "<$0.0001"), ("-0.000000001", "-<$0.0001"), ("0.00015", "$0.0002"),
    ],
)  # fmt: skip
def test_money_is_shown_in_cents_and_exactly_to_whoever_points_at_it(usd: str, shown: str) -> None:
    assert unescape(re.sub("<data[^>]*>|</data>", "", money(usd))) == shown
    assert f'title="${usd}"' in money(usd)


def test_counts_are_short_and_exact_to_whoever_points_at_them() -> None:
    assert [re.sub("<[^>]+>", "", compact(number)) for number in (0, 999, 1000, 12_345, 2_000_000, 3_100_000_000)] == [
        "0", "999", "1k", "12.3k", "2M", "3.1B",
    ]  # fmt: skip
