from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.money import (
    MAX_NANO,
    NANO_PER_USD,
    PICO_PER_NANO,
    PICO_PER_USD,
    exact_pico,
    format_price,
    format_usd,
    nano_of_pico,
    parse_price,
    parse_usd,
    usd_number,
)
from tests.cases import each

amounts_nano = st.integers(-MAX_NANO, MAX_NANO)
prices_pico = st.integers(0, 10**20)


@given(amounts_nano)
def test_an_amount_survives_being_written_and_read(amount_nano: int) -> None:
    assert parse_usd(format_usd(amount_nano)) == amount_nano


@given(prices_pico)
def test_a_price_survives_being_written_and_read(price_pico: int) -> None:
    assert parse_price(format_price(price_pico)) == price_pico


@given(amounts_nano)
def test_a_written_amount_is_exact_plain_and_has_at_least_two_decimals(amount_nano: int) -> None:
    text = format_usd(amount_nano)
    assert Fraction(text) == Fraction(amount_nano, NANO_PER_USD)
    assert not set(text) - set("-.0123456789")
    assert 2 <= len(text.partition(".")[2]) <= 9


@given(prices_pico)
def test_a_written_price_is_exact_plain_and_no_longer_than_needed(price_pico: int) -> None:
    text = format_price(price_pico)
    assert Fraction(text) == Fraction(price_pico, PICO_PER_USD)
    assert not set(text) - set(".0123456789")
    assert "." not in text or text[-1] in "123456789"


@given(st.integers(0, 10**24))
def test_rounding_never_charges_less_and_at_most_one_nano_more(amount_pico: int) -> None:
    excess_pico = nano_of_pico(amount_pico) * PICO_PER_NANO - amount_pico
    assert 0 <= excess_pico < PICO_PER_NANO


@each(("amount_pico", "amount_nano"), [(0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2)])
def test_a_fraction_of_a_nano_counts_as_a_whole_one(amount_pico: int, amount_nano: int) -> None:
    assert nano_of_pico(amount_pico) == amount_nano


@each(
    ("amount_nano", "text"),
    [
        (0, "0.00"),
        (1, "0.000000001"),
        (-1_500_000_000, "-1.50"),
        (12_345_000_000, "12.345"),
        (MAX_NANO, "9223372036.854775807"),
    ],
)
def test_amounts_read_as_people_write_them(amount_nano: int, text: str) -> None:
    assert format_usd(amount_nano) == text


@each(("price_pico", "text"), [(0, "0"), (50_000, "0.00000005"), (1, "0.000000000001"), (10 * PICO_PER_USD, "10")])
def test_prices_read_as_openrouter_writes_them(price_pico: int, text: str) -> None:
    assert format_price(price_pico) == text


@pytest.mark.parametrize(("text", "amount_nano"), [("5", 5 * NANO_PER_USD), ("0.5000000000", 500_000_000), ("-0", 0)])
def test_trailing_zeros_change_nothing(text: str, amount_nano: int) -> None:
    assert parse_usd(text) == amount_nano


NO_NUMBERS = (
    *("", " ", " 1", "1\n", "1.", ".5", "1,5", "1_000", "0x1", "--1", "٣"),
    *("1e3", "1E-8", "1e999999999", "nan", "Infinity"),
    *("9" * 5000, f"0.{'0' * 5000}1"),
)


@each("parse", [parse_usd, parse_price])
@each("text", NO_NUMBERS)
def test_what_is_no_plain_decimal_is_refused(parse: Callable[[str], int], text: str) -> None:
    with pytest.raises(ValueError, match="is not a decimal number"):
        parse(text)


@pytest.mark.parametrize("text", ["0.0000000001", "0.00000000100000000000000000000000000001"])
def test_an_amount_finer_than_a_nano_is_refused_not_rounded(text: str) -> None:
    with pytest.raises(ValueError, match="more than nine decimals"):
        parse_usd(text)


@pytest.mark.parametrize("text", ["0.0000000000001", "0.00000000000100000000000000000000000001"])
def test_a_price_finer_than_a_pico_is_refused_not_rounded(text: str) -> None:
    with pytest.raises(ValueError, match="finer than"):
        parse_price(text)


def test_a_negative_price_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be negative"):
        parse_price("-0.1")


@pytest.mark.parametrize("text", ["9223372036.854775808", "-9223372036.854775808", "10000000000"])
def test_an_amount_beyond_the_ledger_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="more than the ledger can hold"):
        parse_usd(text)


@each(
    ("value", "pieces", "pico"),
    [
        (1, 1, PICO_PER_USD),
        ("1.5", 1_000_000, 1_500_000),
        (0.1, 1_000_000, 100_000),
        (1e-07, 1, 100_000),
        (0.0000001, 1_000_000, Fraction(1, 10)),
        (0, 1, 0),
        (2.0, 1, 2 * PICO_PER_USD),
    ],
)
def test_an_amount_that_a_program_writes_is_read_exactly(value: object, pieces: int, pico: Fraction) -> None:
    assert exact_pico(value, pieces) == pico


@each("value", [*NO_NUMBERS, -1, "-0.5", True, None, [], {}, 1e300, 1e-300, float("nan"), float("inf")])
def test_what_is_no_amount_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"number|negative"):
        exact_pico(value)


@given(amounts_nano)
def test_a_number_is_the_nearest_to_its_text(amount_nano: int) -> None:
    assert usd_number(amount_nano) == float(format_usd(amount_nano))
