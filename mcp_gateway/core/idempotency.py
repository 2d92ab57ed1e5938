"""Requests that take effect once however often they are sent: by account and Idempotency-Key, for 24 hours.

A minted key's are its own, and not its account's.

Inference is not among them, since no answer is kept: it is answered anew, but never twice at once.
Keeps digests and the answer's metadata; never a body, a key's text or a secret. What is being answered is known to this
process alone, the only server of its database.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.engine import Engine, Read, Write
from mcp_gateway.core.errors import Code, GatewayError

KEPT_MS = 24 * 60 * 60 * 1000
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


class Idempotency:
    """What has been answered, and what is being answered now."""

    def __init__(self, store: Engine, *, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms
        self._in_flight: set[tuple[str, bytes]] = set()

    @contextlib.asynccontextmanager
    async def answering(
        self, account_id: str, key: str | None, operation: str, body: bytes
    ) -> AsyncIterator[IdempotentRequest]:
        """While one sending of a request is answered.

        Raises GatewayError `conflict` while another with the same key is, `idempotency_mismatch` where that one asked
        for something else.
        """
        request_sha256 = sha256(operation.encode() + b"\n" + body).digest()
        if key is None:
            yield IdempotentRequest(account_id, None, request_sha256, self._now_ms(), None)
            return
        place = account_id, sha256(key.encode()).digest()
        if place in self._in_flight:
            raise still_answering()
        self._in_flight.add(place)
        try:
            kept = await self._find(place, request_sha256)
            yield IdempotentRequest(*place, request_sha256, self._now_ms(), kept)
        finally:
            self._in_flight.discard(place)

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

    Remembers some of them for a day, in memory; what a restart or a flood forgets is answered like a first one.
    """

    def __init__(self, store: Engine, *, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms
        self._running: set[tuple[str, bytes]] = set()
        self._first: OrderedDict[tuple[str, bytes], tuple[str, int]] = OrderedDict()

    @contextlib.contextmanager
    def answering(self, caller: Caller, key: str, request_id: str) -> Iterator[None]:
        """While a request is answered. Raises GatewayError `conflict` while another with the same key is.

        Of one that a limit refuses nothing is noted: however many come, they have few records.
        """
        asker = caller.subject if caller.is_guest or caller.is_minted else caller.account_id
        place = asker, sha256(key.encode()).digest()
        if place in self._running:
            raise still_answering()
        self._running.add(place)
        is_noted = True
        try:
            yield
        except GatewayError as refusal:
            is_noted = refusal.code not in _OF_LIMITS
            raise
        finally:
            self._running.discard(place)
            if is_noted:
                self._note(place, caller.account_id, request_id)

    def _note(self, place: tuple[str, bytes], account_id: str, request_id: str) -> None:
        now_ms = self._now_ms()
        first_id, at_ms = self._first.get(place, (request_id, now_ms))
        if first_id == request_id or at_ms <= now_ms - KEPT_MS:
            self._first[place] = request_id, now_ms
            self._first.move_to_end(place)
            if len(self._first) > _MAX_REMEMBERED:
                self._first.popitem(last=False)
            return
        note = NoteRepeat(account_id, request_id, first_id)
        self._store.write(note, is_durable=False, in_outage="keep").add_done_callback(_look_at)


def _look_at(written: "asyncio.Future[None]") -> None:
    """So that a failure is not reported as forgotten; the store has logged it."""
    if not written.cancelled():
        written.exception()


def still_answering() -> GatewayError:
    message = "A request with this Idempotency-Key is still being answered; send it again in a second."
    return GatewayError("conflict", message, param="Idempotency-Key", retry_after_s=1)
