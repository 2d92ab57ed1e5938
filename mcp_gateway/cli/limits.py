"""The limits of keys and of accounts as options, in words and as JSON."""

from typing import Annotated

import typer

from mcp_gateway.cli.desk import fail
from mcp_gateway.core.identity.own_limits import DEFAULT, LIMIT_NAMES, Limit, OwnLimits
from mcp_gateway.core.text import shown

_MOST_DIGITS = 19
"""Of a number in the database; Python refuses to read one of thousands."""

LimitOption = Annotated[
    str | None, typer.Option(help="A number, or none for no limit; left out: the configured default.", metavar="N|none")
]
ChangedLimitOption = Annotated[
    str | None,
    typer.Option(
        help="A number; none for no limit; default for the configured one. Left out: as it was.",
        metavar="N|none|default",
    ),
]
AccountLimitOption = Annotated[
    str | None,
    typer.Option(
        help="A number; none for no limit; default for the highest among the keys. Left out: as it was.",
        metavar="N|none|default",
    ),
]


def limits_given(*given: str | None) -> dict[str, Limit]:
    """What is given, in the order of LIMIT_NAMES."""
    return {name: _limit(name, text) for name, text in zip(LIMIT_NAMES, given, strict=True) if text is not None}


def limits_in_words(limits: OwnLimits) -> str:
    """Those that are set; nothing where none is."""
    own = {name: limit for name in LIMIT_NAMES if (limit := getattr(limits, name)) is not DEFAULT}
    return ", ".join(f"{name} {'none' if limit is None else limit}" for name, limit in own.items())


def _limit(name: str, text: str) -> Limit:
    if text.lower() in ("none", "default"):
        return None if text.lower() == "none" else DEFAULT
    if not text.isdecimal() or len(text) > _MOST_DIGITS or not 1 <= int(text) < 2**63:
        fail(f"--{name.replace('_', '-')} takes a whole number from 1, none or default; not '{shown(text)}'")
    return int(text)
