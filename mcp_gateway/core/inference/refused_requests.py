"""Requests that a limit refused, recorded for who sent them: the first of each minute, and beside it how many followed.

So the log of requests tells why they failed, however many a client sends. What is admitted passes nothing of this.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.inference.attribution import attributed
from mcp_gateway.core.inference.parts import Call, Parts
from mcp_gateway.core.inference.passage import PassageOrder
from mcp_gateway.core.record import Attribution, RequestRecord

INTERVAL_S = 5.0
"""How long after the end of its minute it is told at most how many followed."""
_MOST_OF_AN_ACCOUNT = 20
"""Records in a minute: an account may have thousands of keys, and each several limits."""

_Alike = tuple[str, str | None, Code]
"""Refusals of one account, credential and reason; all guests are one."""


@dataclass(slots=True)
class _First:
    """The one of a minute that has a record."""

    request_id: str
    followed: int = 0


class RefusedRequests:
    """Those of this minute, by the clock that limits go by."""

    def __init__(self, parts: Parts, minute: Callable[[], int]) -> None:
        self._parts = parts
        self._minute_now = minute
        self._minute = -1
        self._first: dict[_Alike, _First] = {}
        self._recorded = Counter[str]()
        """By account."""

    def note(self, caller: Caller, asked: Call | PassageOrder, refusal: GatewayError) -> None:
        """Record a request that was refused before it was admitted, or count that it was refused like another."""
        self._catch_up()
        alike = caller.account_id, caller.credential_id, refusal.code
        if (first := self._first.get(alike)) is not None:
            first.followed += 1
        elif self._recorded[caller.account_id] < _MOST_OF_AN_ACCOUNT:
            self._recorded[caller.account_id] += 1
            self._first[alike] = _First(asked.request_id)
            record = self._record(caller, asked, refusal)
            self._parts.records.add(record)
            self._parts.records.note_refused(record.account_id, record.id, 0)
            self._parts.activity.note(record)

    def write(self) -> None:
        """Say beside each record how many followed, and begin anew."""
        for (account_id, _, _), first in self._first.items():
            if first.followed:
                self._parts.records.note_refused(account_id, first.request_id, first.followed)
        self._first.clear()
        self._recorded.clear()

    async def watch(self) -> None:
        """Do so for each minute that is over, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            self._catch_up()

    def _catch_up(self) -> None:
        if (minute := self._minute_now()) != self._minute:
            self.write()
            self._minute = minute

    def _record(self, caller: Caller, asked: Call | PassageOrder, refusal: GatewayError) -> RequestRecord:
        """Nothing was read of it but its head."""
        return RequestRecord(
            id=asked.request_id,
            client_request_id=asked.client_request_id,
            account_id=caller.account_id,
            key_id=caller.key_id,
            door=asked.door if isinstance(asked, Call) else "http",
            model=None,
            backend=None,
            is_stream=False,
            prompt_tokens=0,
            completion_tokens=0,
            cached_tokens=None,
            cost_nano=0,
            price_version=None,
            started_at_ms=int(self._parts.now_s() * 1000),
            latency_ms=0,
            first_token_ms=None,
            http_status=refusal.status,
            error_code=refusal.code,
            finish_reason=None,
            surface=asked.surface if isinstance(asked, Call) else "proxy",
            attribution=self._attribution(caller, asked),
        )

    def _attribution(self, caller: Caller, asked: Call | PassageOrder) -> Attribution | None:
        """By headers and the tags of the key alone, as of any request whose body was not read."""
        if not caller.is_attributed:
            return None
        of_call = asked.context.sent if isinstance(asked, Call) and asked.context is not None else {}
        sent = asked.sent if isinstance(asked, PassageOrder) else of_call
        return attributed(caller.tags, sent, self._parts.settings.attribution.user_headers, {}).to
