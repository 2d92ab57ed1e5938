"""The order in which a request's offers are asked: pure functions of offers, of its prefix, and of how backends are.

A conversation goes back to the backend that has its beginning in the prefix cache, unless that one has more than its
share to do; what has no home or leaves it goes to the less loaded of two, which keeps loads even without a herd.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import groupby
from math import ceil
from operator import attrgetter
from random import Random
from typing import Generic, NamedTuple, Protocol, TypeVar

from mcp_gateway.core.catalog import Offer
from mcp_gateway.core.surfaces.surface import Ask

_SHARE = 1.25
"""A home's load may be this much above the mean: consistent hashing with bounded loads (Mirrokni et al., 2016)."""


class Server(Protocol):
    """A backend as it is at the moment; `load` is the requests that a new one would share it with.

    `can_take` is whether a request for the model may be sent at all, `is_sound_for` whether it may be expected to be
    served.
    """

    @property
    def name(self) -> str: ...
    @property
    def load(self) -> int: ...
    def can_take(self, backend_model: str) -> bool: ...
    def is_sound_for(self, backend_model: str) -> bool: ...


S = TypeVar("S", bound=Server)


class Candidate(NamedTuple, Generic[S]):
    """An offer at one of the backends of its source."""

    offer: Offer
    backend: S


Ranking = Sequence[Candidate[S]]
"""Of one request, in the order of its offers; of each, the backend first that is the home of its prefix."""
Sight = Mapping[str, Sequence[S]]
"""The backends of each source as they are now."""


def rank(offers: Sequence[Offer], sight: Sight[S], ask: Ask, account_id: str) -> Ranking[S]:
    """All that can be asked now. The prefix is read only where there is a choice."""
    able = _able(offers, sight)
    if len(able) <= 1:
        return able
    prefix = prefix_of(ask, account_id)
    return [one for _, peers in groupby(able, attrgetter("offer")) for one in _by_home(peers, prefix)]


def spread(offers: Sequence[Offer], sight: Sight[S], random: Random) -> Ranking[S]:
    """The same of a request that no prefix cache serves: the backends of each offer in any order."""
    for_each = [list(peers) for _, peers in groupby(_able(offers, sight), attrgetter("offer"))]
    return [one for peers in for_each for one in random.sample(peers, len(peers))]


def next_of(ranking: Ranking[S], failures: Collection[Candidate[S]], random: Random) -> Candidate[S] | None:
    """Whom to ask after these failures, as backends are now; None where nobody is left.

    Backends that are full, or fail, are asked where there are no others, and only first: a full fleet then costs one
    question a request, and requests that themselves make backends fail cannot shut everybody out.
    """
    left = [one for one in ranking if one not in failures] if failures else ranking
    able = [one for one in left if one.backend.can_take(one.offer.name)]
    if len(able) > 1 or failures:
        sound = [one for one in able if one.backend.is_sound_for(one.offer.name)]
        able = sound or ([] if failures else able)
    if not able:
        return None
    return able[0] if len(able) == 1 else _chosen(able, random)


def prefix_of(ask: Ask, account_id: str) -> bytes:
    """A hash of what stays the same at a conversation's start.

    Of the account too, since no account is served from the cache of another.
    """
    hashed = blake2b(account_id.encode(), digest_size=16)
    for text in ask.surface.opening(ask.body):
        hashed.update(text + b"\0")
    return hashed.digest()


def _able(offers: Sequence[Offer], sight: Sight[S]) -> list[Candidate[S]]:
    return [
        Candidate(offer, backend) for offer in offers for backend in sight[offer.source] if backend.can_take(offer.name)
    ]


def _by_home(peers: Iterable[Candidate[S]], prefix: bytes) -> list[Candidate[S]]:
    """Rendezvous hashing: the highest score wins, so a backend that comes or goes moves only its own conversations."""

    def score(candidate: Candidate[S]) -> bytes:
        return blake2b(candidate.backend.name.encode(), key=prefix, digest_size=8).digest()

    return sorted(peers, key=score, reverse=True)


def _chosen(able: Sequence[Candidate[S]], random: Random) -> Candidate[S]:
    """One of the first offer's: the home of the prefix, or the less loaded of two if that has more than its share."""
    home = able[0]
    peers = [candidate for candidate in able if candidate.offer is home.offer]
    all_load = sum(candidate.backend.load for candidate in peers)
    if len(peers) == 1 or home.backend.load < ceil(_SHARE * (all_load + 1) / len(peers)):
        return home
    return min(random.sample(peers, 2), key=lambda candidate: candidate.backend.load)
