"""Hears what other servers announce, by a connection for that alone, which is made again for as long as it takes.

Where several may serve, its session has the lock of the one that is elected to do what falls due by the clock. After
each answer that it has the lock this server is sure of it for a while, which ends before the database ends a session
that asks for nothing: one that was frozen knows by its own clock, as it wakes, that another may be elected by now.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from random import Random

import asyncpg

from mcp_gateway.core.engine import Announcement
from mcp_gateway.core.log_limit import LogLimit
from mcp_gateway.core.store.postgres.announcing import CHANNEL, said_in
from mcp_gateway.core.store.postgres.faults import FAILED, told
from mcp_gateway.core.store.postgres.link import CONNECT_S, WHICH
from mcp_gateway.core.store.postgres.session import ELECTED, LOCKS
from mcp_gateway.core.store.postgres.words import NOW_S

logger = logging.getLogger(__name__)

_ASKED_EVERY_S = 2.0
"""Whether the connection is still there: who waits for a server that is gone hears nothing."""
_ANSWER_S = 1.5
_FIRST_REST_S = 0.02
_LONGEST_REST_S = 1.0
_STEADY_S = 1.0
"""A connection that lasts for less has not ended the trouble."""
_SURE_S = 4.5
"""From when it was asked for the lock: more than from one question to the answer to the next."""
_SILENT_S = 6
"""After so long without a question the session is ended, also where the process that has it is frozen."""
_SETTINGS = {"application_name": "mcp-gateway, listening", "idle_session_timeout": f"{_SILENT_S}s"}
_ASK = f"SELECT FALSE, CAST({NOW_S} AS float8)"
_ELECT = f"SELECT pg_try_advisory_lock({LOCKS}, {ELECTED}), CAST({NOW_S} AS float8)"
"""Whether the session has the lock, which it may take any number of times."""
_APART_S = 5.0
"""How far a machine's clock may be from the database's, and so twice as far from another machine's."""


class Hearing:
    """`hear` is told each fact of others; `unheard` is called where some of it may be missing."""

    is_up = False
    """Whether it hears them now."""

    def __init__(
        self,
        url: str,
        own_name: str,
        hear: Callable[[Announcement], None],
        unheard: Callable[[], None],
        *,
        may_be_elected: bool = False,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._url = url
        self._wall_s = wall_s
        self._may_be_elected = may_be_elected
        self._loop = asyncio.get_running_loop()
        self._elected_until_s = self._loop.time()
        self._is_successor = False
        """Of one that had the lock just now: what that one had begun has until the next question to end."""
        self._own_name = own_name
        self._hear = hear
        self._unheard = unheard
        self._random = Random()  # noqa: S311 - spreads tries; keeps no secret
        self._warnings = LogLimit(logger)
        self._clock_warnings = LogLimit(logger)

    @property
    def is_elected(self) -> bool:
        """Whether this server has the lock, so that no other can be."""
        return self._loop.time() < self._elected_until_s

    async def watch(self) -> None:
        """Listen, and again whenever the connection has ended, until cancelled."""
        loop, rest_s = self._loop, _FIRST_REST_S
        while True:
            began_at_s = loop.time()
            try:
                await self._listen()
            except FAILED as error:
                self._warnings.warning("what other servers change is heard later: %s", told(error))
            is_steady = loop.time() - began_at_s >= _STEADY_S
            rest_s = _FIRST_REST_S if is_steady else min(2 * rest_s, _LONGEST_REST_S)
            await asyncio.sleep(rest_s * self._random.uniform(0.5, 1.0))

    async def _listen(self) -> None:
        """Until the connection ends. Raises what `faults.py` names."""
        ended = asyncio.Event()
        connection = await asyncpg.connect(
            self._url,
            timeout=CONNECT_S,
            command_timeout=_ANSWER_S,
            server_settings=_SETTINGS,
            target_session_attrs=WHICH,
        )
        try:
            connection.add_termination_listener(lambda _: ended.set())
            await connection.add_listener(CHANNEL, self._notified)
            self.is_up = True
            self._unheard()
            while not ended.is_set():
                await self._ask(connection)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_ASKED_EVERY_S):
                        await ended.wait()
        finally:
            self.is_up = False
            self._elected_until_s = self._loop.time()
            connection.terminate()

    async def _ask(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        """Whether it is there, for the lock, and for the time."""
        asked_at_s, from_s = self._loop.time(), self._wall_s()
        answer = await connection.fetchrow(_ELECT if self._may_be_elected else _ASK)
        assert answer is not None
        has_lock, database_s = answer
        self._compare(from_s, database_s, self._wall_s())
        if has_lock and not self._is_successor:
            self._elected_until_s = asked_at_s + _SURE_S
        self._is_successor = not has_lock

    def _compare(self, from_s: float, database_s: float, to_s: float) -> None:
        """The database's time with this machine's before and after it was asked for."""
        apart_s = from_s - database_s if database_s < from_s else database_s - to_s
        if apart_s > _APART_S:
            self._clock_warnings.warning(
                "this machine's clock is %d s %s the database's: what expires or falls due goes by it; set it right",
                apart_s,
                "ahead of" if database_s < from_s else "behind",
            )

    def _notified(self, _: object, __: int, ___: str, text: object) -> None:
        said = said_in(str(text))
        if said.by == self._own_name:
            return
        if said.facts is None:
            self._unheard()
            return
        for fact in said.facts:
            self._hear(fact)
