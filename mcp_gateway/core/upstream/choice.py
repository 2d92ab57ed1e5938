"""Which of several backends a request goes to: pure functions of their names and loads and of the request's prefix.

A conversation goes back to the backend that has its beginning in the prefix cache, unless that one has more than its
share to do; what has no home or leaves it goes to the less loaded of two, which keeps loads even without a herd.
"""

from collections.abc import Mapping
from hashlib import blake2b
from math import ceil
from random import Random

from mcp_gateway.core.surfaces.surface import Ask

_SHARE = 1.25
"""A home's load may be this much above the mean: consistent hashing with bounded loads (Mirrokni et al., 2016)."""


def prefix_of(ask: Ask, account_id: str) -> bytes:
    """A hash of what stays the same at a conversation's start.

    Of the account too, since no account is served from the cache of another.
    """
    hashed = blake2b(account_id.encode(), digest_size=16)
    for text in ask.surface.opening(ask.body):
        hashed.update(text + b"\0")
    return hashed.digest()


def choose(loads: Mapping[str, int], prefix: bytes, random: Random) -> str:
    """The name of the backend to ask, of one or more with their loads in requests."""
    if len(loads) == 1:
        return next(iter(loads))
    home = home_of(prefix, loads)
    if loads[home] < ceil(_SHARE * (sum(loads.values()) + 1) / len(loads)):
        return home
    return min(random.sample(list(loads), 2), key=loads.__getitem__)


def home_of(prefix: bytes, names: Mapping[str, int]) -> str:
    """Rendezvous hashing: the highest score wins, so a backend that comes or goes moves only its own conversations."""
    return max(names, key=lambda name: blake2b(name.encode(), key=prefix, digest_size=8).digest())
