"""Money as integers: balances in nano-USD (1e-9), prices in pico-USD (1e-12) per token. The only place that rounds.

Amounts enter and leave as decimal strings in USD; no float ever holds money.
"""

import re
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

from mcp_gateway.core.text import shown

NANO_PER_USD = 10**9
NANO_PER_CENT = NANO_PER_USD // 100
PICO_PER_USD = 10**12
PICO_PER_NANO = PICO_PER_USD // NANO_PER_USD
MILLION_TOKENS = 1_000_000
"""What people quote prices for."""
MAX_NANO = 2**63 - 1
"""The largest amount that a database column holds: about 9.2 billion USD."""

PaidKind = Literal["credit", "adjustment", "refund", "dispute"]
"""Of entries that change what was paid into a wallet."""
OutsideKind = Literal[PaidKind, "grant"]
"""Of entries that say what happened outside, each once."""
EntryKind = Literal[OutsideKind, "hold", "settle", "void", "expire", "refund_of_request"]
"""Of all entries in the ledger."""


_DECIMAL = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,40})?")


def _scaled(text: str, scale: int | Fraction) -> Fraction:
    """Exact: a Decimal would round products to its context's 28 digits, and takes exponents without bound."""
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"'{shown(text)}' is not a decimal number; write USD as in 12.50")
    return Fraction(text) * scale


def parse_usd(text: str) -> int:
    """Nano-USD of a decimal string in USD. Raises ValueError for more than nine decimals or no number."""
    scaled = _scaled(text, NANO_PER_USD)
    if scaled.denominator != 1:
        raise ValueError(f"{text!r} has more than nine decimals; the smallest amount is 0.000000001 USD")
    if abs(scaled) > MAX_NANO:
        raise ValueError(f"{text!r} is more than the ledger can hold")
    return int(scaled)


def parse_price(text: str, tokens: int = 1) -> int:
    """Pico-USD per token of a decimal string in USD for so many. Raises ValueError for a negative or finer price."""
    scaled = _scaled(text, Fraction(PICO_PER_USD, tokens))
    if scaled < 0:
        raise ValueError(f"a price cannot be negative: {text!r}")
    if scaled.denominator != 1:
        raise ValueError(f"{text!r} is finer than 0.000000000001 USD per token")
    return int(scaled)


def exact_pico(value: Any, pieces: int = 1) -> Fraction:
    """Pico-USD for one of an amount in USD for so many, which a program may write as a number or as text.

    Raises ValueError for what is no amount, or less than nothing.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    text = format(Decimal(repr(value)), "f") if is_number else value
    if not isinstance(text, str):
        raise ValueError("an amount is a number, or a text that is one")
    scaled = _scaled(text, Fraction(PICO_PER_USD, pieces))
    if scaled < 0:
        raise ValueError(f"an amount cannot be negative: {text!r}")
    return scaled


def nano_of_pico(amount_pico: int) -> int:
    """Nano-USD of an amount in pico-USD, rounded up."""
    return -(-amount_pico // PICO_PER_NANO)


def format_usd(amount_nano: int) -> str:
    """Decimal USD of nano-USD, without exponent, at least two decimals: `"0.00"`, `"-1.50"`, `"0.000000001"`."""
    digits = str(amount_nano).zfill(10 if amount_nano >= 0 else 11)  # the last nine are decimals
    return f"{digits[:-9]}.{digits[-9:-7]}{digits[-7:].rstrip('0')}"


def usd_number(amount_nano: int) -> float:
    """USD of nano-USD as a number, which programs of others read; told only, and never reckoned with."""
    return amount_nano / NANO_PER_USD


def format_price(price_pico: int, tokens: int = 1, parts: int = 1) -> str:
    """Decimal USD of a price in pico-USD per token, for so many, as OpenRouter writes it: `"0.00000005"`, `"0"`.

    Where the price is told in `parts` of a pico-USD, so many of these are one.
    """
    text = f"{Decimal(price_pico * tokens) / (PICO_PER_USD * parts):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
