"""What is said of a key that is given away: where it may be used from, what it is for, how its costs are told apart."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypedDict

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.networks import Networks, are_within
from mcp_gateway.core.tags import Tags

MAX_NOTE_CHARS = 1000


class Particulars(NamedTuple):
    """`networks` are all that requests may come from; None for anywhere. `note` is for people."""

    networks: Networks | None = None
    note: str | None = None
    tags: Tags = ()


NO_PARTICULARS = Particulars()


class ParticularsChange(TypedDict, total=False):
    """Those that are to be others; what is left out stays as it is."""

    networks: Networks | None
    note: str | None
    tags: Tags


def check_networks(networks: Networks | None, most: Iterable[Networks], whose: str) -> None:
    """Raises GatewayError `insufficient_permissions` for a network from which the key behind it may not be used."""
    if not all(networks is not None and are_within(networks, theirs) for theirs in most):
        message = f"{whose} may not be used from all of these networks itself."
        raise GatewayError("insufficient_permissions", message, param="networks")


def in_line(networks: Networks | None, makers: Sequence[Networks | None]) -> tuple[Networks, ...]:
    """All that bind a key: its own and those of its makers, each once."""
    return tuple(dict.fromkeys(one for one in (networks, *makers) if one is not None))
