"""Money as settings write it: texts, since a number of TOML is not exact; and fees. Knows no prices of tokens."""

from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from mcp_gateway.core.money import PICO_PER_USD, parse_price

_MOST_FEE_PICO = 100 * PICO_PER_USD


def quoted(value: Any) -> Any:
    """What a setting of money was given; raises ValueError for a number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f'money is exact only as a string: write it with quotes, "{Decimal(repr(value)):f}"')
    return value


def _checked_fee(text: str) -> str:
    try:
        is_fee = not text or 0 <= parse_price(text) <= _MOST_FEE_PICO
    except ValueError:
        is_fee = False
    if not is_fee:
        raise ValueError('must be USD, from "0" to "100", at most 12 decimals, such as "0.001"')
    return text


FeeText = Annotated[str, BeforeValidator(quoted), AfterValidator(_checked_fee)]
