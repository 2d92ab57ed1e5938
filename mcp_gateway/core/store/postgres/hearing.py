"""Hears what other servers announce, by a connection for that alone, which is made again for as long as it takes."""

import asyncio
import logging
from collections.abc import Callable
from random import Random

import asyncpg

from mcp_gateway.core.engine import Announcement
from mcp_gateway.core.log_limit import LogLimit
from mcp_gateway.core.store.postgres.announcing import CHANNEL, said_in
from mcp_gateway.core.store.postgres.faults import FAILED, told
from mcp_gateway.core.store.postgres.link import CONNECT_S

logger = logging.getLogger(__name__)

_ASKED_EVERY_S = 2.0
"""Whether the connection is still there: who waits for a server that is gone hears nothing."""
_ANSWER_S = 1.5
_FIRST_REST_S = 0.02
_LONGEST_REST_S = 1.0
_STEADY_S = 1.0
"""A connection that lasts for less has not ended the trouble."""
_SETTINGS = {"application_name": "mcp-gateway, listening", "idle_session_timeout": "0"}


class Hearing:
    """`hear` is told each fact of others; `unheard` is called where some of it may be missing."""

    is_up = False
    """Whether it hears them now."""

    def __init__(
        self, url: str, own_name: str, hear: Callable[[Announcement], None], unheard: Callable[[], None]
    ) -> None:
        self._url = url
        self._own_name = own_name
        self._hear = hear
        self._unheard = unheard
        self._random = Random()  # noqa: S311 - spreads tries; keeps no secret
        self._warnings = LogLimit(logger)

    async def watch(self) -> None:
        """Listen, and again whenever the connection has ended, until cancelled."""
        loop, rest_s = asyncio.get_running_loop(), _FIRST_REST_S
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
            self._url, timeout=CONNECT_S, command_timeout=_ANSWER_S, server_settings=_SETTINGS
        )
        try:
            connection.add_termination_listener(lambda _: ended.set())
            await connection.add_listener(CHANNEL, self._notified)
            self.is_up = True
            self._unheard()
            while not ended.is_set():
                try:
                    async with asyncio.timeout(_ASKED_EVERY_S):
                        await ended.wait()
                except TimeoutError:
                    await connection.execute("SELECT 1")
        finally:
            self.is_up = False
            connection.terminate()

    def _notified(self, _: object, __: int, ___: str, text: object) -> None:
        said = said_in(str(text))
        if said.by == self._own_name:
            return
        if said.facts is None:
            self._unheard()
            return
        for fact in said.facts:
            self._hear(fact)
