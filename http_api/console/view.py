"""How amounts, numbers and times read on a page: the only place that formats them. Money stays a decimal string."""

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from decimal import ROUND_HALF_EVEN, Decimal
from urllib.parse import urlencode

from markupsafe import Markup

_CENT = Decimal("0.01")
_SMALL = Decimal("0.0001")
_MOST_MS = 10_000
_SIZES = ((10**9, "B"), (10**6, "M"), (10**3, "k"))


def money(usd: str) -> Markup:
    """A decimal string of USD in cents, exact for whoever points at it; below a dollar with four decimals."""
    exact = Decimal(usd)
    step = _CENT if exact == 0 or abs(exact) >= 1 else _SMALL
    rounded = exact.quantize(step, ROUND_HALF_EVEN)
    if rounded == 0 and exact != 0:
        text = f"{'-' if exact < 0 else ''}<$0.0001"
    else:
        text = f"{'-' if rounded < 0 else ''}${abs(rounded):,}"
    return Markup('<data value="{}" title="${}">{}</data>').format(usd, usd, text)


def per_million(usd: str) -> Markup:
    """A price of one token as that of a million, exactly; that of the token for whoever points at it."""
    whole, _, fraction = f"{Decimal(usd).scaleb(6):,f}".partition(".")
    text = f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"
    return Markup('<data value="{}" title="${} a token">${}</data>').format(usd, usd, text)


def compact(number: int) -> Markup:
    """A count in three or four characters, exact for whoever points at it."""
    for size, letter in _SIZES:
        if abs(number) >= size:
            short = f"{number / size:.1f}".removesuffix(".0") + letter
            return Markup('<data value="{}" title="{:,}">{}</data>').format(number, number, short)
    return Markup('<data value="{}">{}</data>').format(number, number)


def moment(at_s: int | None, otherwise: str = "never", zone: tzinfo = UTC) -> Markup:
    """Unix seconds in UTC, which it says; the time in the reader's zone is its title, or a script's if it is UTC."""
    if at_s is None:
        return Markup('<span class="quiet">{}</span>').format(otherwise)
    at = datetime.fromtimestamp(at_s, UTC)
    own = Markup(' title="{:%Y-%m-%d %H:%M} {}"').format(at.astimezone(zone), zone) if zone is not UTC else ""
    return Markup('<time datetime="{}"{}>{:%Y-%m-%d %H:%M} UTC</time>').format(at.isoformat(), own, at)


def minute(at: datetime) -> str:
    """A moment of UTC as a field for a date and a time takes it."""
    return at.strftime("%Y-%m-%dT%H:%M")


def duration(number_ms: int) -> str:
    """Milliseconds as people say them."""
    return f"{number_ms:,} ms" if number_ms < _MOST_MS else f"{number_ms / 1000:,.1f} s"


def query_text(fields: Mapping[str, object]) -> str:
    """What stands behind the question mark of an address; a list has its name before each."""
    return urlencode(fields, doseq=True)


def limit(number: int | None) -> str:
    """A limit that may be none."""
    return "no limit" if number is None else f"{number:,}"


def usd(nano: int) -> Decimal:
    """An amount that is counted in billionths of a dollar."""
    return Decimal(nano).scaleb(-9)


def dollars(usd: Decimal) -> str:
    """An amount as plain text, exact where it is small."""
    return f"${usd:,.2f}" if usd == 0 or abs(usd) >= 1 else f"${usd.normalize():f}"


def counted(number: Decimal) -> str:
    """A count as plain text."""
    return f"{number.normalize():,f}"
