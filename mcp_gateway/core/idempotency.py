"""Requests that take effect once however often they are sent: by account and Idempotency-Key, for 24 hours.

A minted key's are its own, and not its account's.

Inference is not among them, since no answer is kept: it is answered anew, but never twice at once.
Keeps digests and the answer's metadata; never a body, a key's text or a secret. What is being answered a process that
serves alone knows by itself; each of several replicas claims it in their database before anything is done.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.engine import Engine, Read, Write
from mcp_gateway.core.errors import Code, GatewayError

KEPT_MS = 24 * 60 * 60 * 1000
_ENDING_S = 0.1
"""Who was answered by another replica and asks again at once waits so long for that one's claim to end."""
_MAX_REMEMBERED = 10_000
"""First requests for inference by key."""
_OF_LIMITS: frozenset[Code] = frozenset({"requests_per_minute", "requests_per_day", "in_flight", "guest"})
"""With which requests are refused before they are admitted."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer that was given before: an HTTP status and a JSON object."""

    status: int
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class KeepAnswer(Write[None]):
    """Raises GatewayError `conflict` where another sending of the request was faster."""

    account_id: str
    key: bytes
    request_sha256: bytes
    kept: Kept
    at_ms: int


@dataclass(frozen=True, slots=True)
class NoteRepeat(Write[None]):
    """A request for inference whose key another one bore before."""

    account_id: str
    request_id: str
    first_id: str


@dataclass(frozen=True, slots=True)
class AnswerKept(Read[tuple[bytes, Kept] | None]):
    """What a key was answered after a time, and the digest of the request that bore it."""

    account_id: str
    key: bytes
    after_ms: int


@dataclass(frozen=True, slots=True)
class ClaimRequest(Write[str | None]):
    """Have this replica alone answer what bears a key, until it ends that or is dead; `name` is a digest.

    Comes to the id of the first request that bore it, where that is remembered. Raises GatewayError `conflict` while
    another replica answers one.
    """

    name: bytes
    request_id: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class EndClaim(Write[None]):
    """Of this replica, if it has any. The first request that bore the key is remembered where `remembers` says so."""

    name: bytes
    request_id: str
    remembers: bool


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """One sending of a request; `key` is the digest of its Idempotency-Key, `kept` what an earlier one was answered."""

    account_id: str
    key: bytes | None
    request_sha256: bytes
    started_at_ms: int
    kept: Kept | None

    @property
    def name(self) -> str | None:
        """The key for systems that others share."""
        return None if self.key is None else f"{self.account_id} {self.key.hex()}"

    def answered(self, status: int, body: dict[str, Any]) -> KeepAnswer | None:
        """The answer, to be kept in the transaction that does what was asked; None without a key."""
        if self.key is None:
            return None
        kept = Kept(status, body)
        return KeepAnswer(self.account_id, self.key, self.request_sha256, kept, self.started_at_ms)


@dataclass(slots=True)
class _Claim:
    """On one sending of a request: the first one that bore its key, and whether this one is remembered if it was it."""

    first_id: str | None = None
    is_remembered: bool = False


class _InFlight:
    """What is being answered now of a purpose: by this process, and where it is one of several replicas, by any."""

    def __init__(self, store: Engine, purpose: str, *, now_ms: Callable[[], int], is_replica: bool) -> None:
        self._store = store
        self._purpose = purpose
        self._now_ms = now_ms
        self._is_replica = is_replica
        self._places: set[tuple[str, bytes]] = set()

    @contextlib.asynccontextmanager
    async def answering(self, place: tuple[str, bytes], request_id: str = "") -> AsyncIterator[_Claim]:
        """While one sending is answered. Raises GatewayError `conflict` while another is, `ledger_unavailable` where a
        replica cannot know.
        """
        if place in self._places:
            raise still_answering()
        self._places.add(place)
        try:
            if not self._is_replica:
                yield _Claim()
                return
            async with self._claimed(place, request_id) as claim:
                yield claim
        finally:
            self._places.discard(place)

    @contextlib.asynccontextmanager
    async def _claimed(self, place: tuple[str, bytes], request_id: str) -> AsyncIterator[_Claim]:
        asker, key = place
        name = sha256(f"{self._purpose}\n{asker}\n".encode() + key).digest()
        claim = _Claim()
        try:
            claim.first_id = await self._first_of(ClaimRequest(name, request_id, self._now_ms()))
            yield claim
        finally:  # also where nobody knows whether that was written
            end = EndClaim(name, request_id, claim.is_remembered)
            self._store.write(end, is_durable=False, in_outage="keep").add_done_callback(_look_at)

    async def _first_of(self, claim: ClaimRequest) -> str | None:
        """Raises as ClaimRequest, where another replica is at it for longer than to say that it has ended."""
        try:
            return await self._store.write(claim, is_durable=False)
        except GatewayError as refusal:
            if refusal.code != "conflict":
                raise
        await asyncio.sleep(_ENDING_S)
        return await self._store.write(claim, is_durable=False)


class Idempotency:
    """What has been answered, and what is being answered now."""

    def __init__(self, store: Engine, *, now_ms: Callable[[], int], is_replica: bool = False) -> None:
        self._store = store
        self._now_ms = now_ms
        self._in_flight = _InFlight(store, "once", now_ms=now_ms, is_replica=is_replica)

    @contextlib.asynccontextmanager
    async def answering(
        self, account_id: str, key: str | None, operation: str, body: bytes
    ) -> AsyncIterator[IdempotentRequest]:
        """While one sending of a request is answered.

        Raises GatewayError `conflict` while another with the same key is, `idempotency_mismatch` where that one asked
        for something else, `ledger_unavailable`.
        """
        request_sha256 = sha256(operation.encode() + b"\n" + body).digest()
        if key is None:
            yield IdempotentRequest(account_id, None, request_sha256, self._now_ms(), None)
            return
        place = account_id, sha256(key.encode()).digest()
        async with self._in_flight.answering(place):
            kept = await self._find(place, request_sha256)
            yield IdempotentRequest(*place, request_sha256, self._now_ms(), kept)

    async def keep(self, request: IdempotentRequest, status: int, body: dict[str, Any]) -> None:
        """Note the answer of what was done elsewhere, under the request's name. Raises as KeepAnswer."""
        if (answer := request.answered(status, body)) is not None:
            await self._store.write(answer)

    async def _find(self, place: tuple[str, bytes], request_sha256: bytes) -> Kept | None:
        found = await self._store.read(AnswerKept(*place, self._now_ms() - KEPT_MS))
        if found is None:
            return None
        asked_sha256, kept = found
        if asked_sha256 != request_sha256:
            message = "This Idempotency-Key was sent with another request before."
            raise GatewayError("idempotency_mismatch", message, param="Idempotency-Key")
        return kept


class Repeats:
    """Requests for inference that bear a key: which is being answered now, and which was the first of them.

    The first is remembered for a day: by replicas in their database, otherwise in memory, of which a restart or a flood
    forgets some; what is forgotten is answered like a first one all the same.
    """

    def __init__(self, store: Engine, *, now_ms: Callable[[], int], is_replica: bool = False) -> None:
        self._store = store
        self._now_ms = now_ms
        self._is_replica = is_replica
        self._in_flight = _InFlight(store, "inference", now_ms=now_ms, is_replica=is_replica)
        self._first: OrderedDict[tuple[str, bytes], tuple[str, int]] = OrderedDict()

    @contextlib.asynccontextmanager
    async def answering(self, caller: Caller, key: str, request_id: str) -> AsyncIterator[None]:
        """While a request is answered. Raises GatewayError `conflict` while another with the same key is, and
        `ledger_unavailable` where a replica cannot know.

        Of one that a limit refuses nothing is noted: however many come, they have few records.
        """
        asker = caller.subject if caller.is_guest or caller.is_minted else caller.account_id
        place = asker, sha256(key.encode()).digest()
        async with self._in_flight.answering(place, request_id) as claim:
            claim.is_remembered = True
            try:
                yield
            except GatewayError as refusal:
                claim.is_remembered = refusal.code not in _OF_LIMITS
                raise
            finally:
                if claim.is_remembered:
                    first_id = claim.first_id if self._is_replica else self._first_of(place, request_id)
                    self._note(first_id, caller.account_id, request_id)

    def _first_of(self, place: tuple[str, bytes], request_id: str) -> str | None:
        """An earlier one that is remembered, or else this one is."""
        now_ms = self._now_ms()
        first_id, at_ms = self._first.get(place, (request_id, now_ms))
        if first_id != request_id and at_ms > now_ms - KEPT_MS:
            return first_id
        self._first[place] = request_id, now_ms
        self._first.move_to_end(place)
        if len(self._first) > _MAX_REMEMBERED:
            self._first.popitem(last=False)
        return None

    def _note(self, first_id: str | None, account_id: str, request_id: str) -> None:
        if first_id is not None:
            note = NoteRepeat(account_id, request_id, first_id)
            self._store.write(note, is_durable=False, in_outage="keep").add_done_callback(_look_at)


def _look_at(written: "asyncio.Future[None]") -> None:
    """So that a failure is not reported as forgotten; the store has logged it."""
    if not written.cancelled():
        written.exception()


def still_answering() -> GatewayError:
    message = "A request with this Idempotency-Key is still being answered; send it again in a second."
    return GatewayError("conflict", message, param="Idempotency-Key", retry_after_s=1)
