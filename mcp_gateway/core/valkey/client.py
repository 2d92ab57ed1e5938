"""A connection to Valkey that is made again for as long as it takes; while there is none, nobody waits for it."""

import asyncio
import hashlib
import logging
import ssl
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random

from mcp_gateway.core.log_limit import LogLimit
from mcp_gateway.core.valkey.link import Command, Link, OnLost, ValkeyDown
from mcp_gateway.core.valkey_address import ValkeyAddress

logger = logging.getLogger(__name__)

ANSWER_S = 0.3
"""How long an answer may take."""
_CONNECT_S = 1.0
_FIRST_REST_S = 0.02
_LONGEST_REST_S = 0.5
"""Between two tries to connect."""
_STEADY_S = 1.0
"""A connection that lasts for less has not ended the trouble."""


def bulk(value: bytes | int) -> bytes:
    """A part of a command as it is sent."""
    text = value if isinstance(value, bytes) else b"%d" % value
    return b"$%d\r\n%b\r\n" % (len(text), text)


class Script:
    """A Lua script, and the name that Valkey knows it by once it is loaded."""

    __slots__ = ("name", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.name = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().encode()

    def call(self, keys: Sequence[bytes], arguments: int) -> bytes:
        """The beginning of a command that runs it, up to its arguments, of which there are so many."""
        parts: tuple[bytes | int, ...] = (b"EVALSHA", self.name, len(keys), *keys)
        return b"*%d\r\n" % (len(parts) + arguments) + b"".join(map(bulk, parts))


class Valkey:
    """Loads its scripts into each connection, so that they are known whatever the server has forgotten."""

    _link: Link | None = None

    def __init__(
        self,
        address: ValkeyAddress,
        scripts: Iterable[Script],
        *,
        client_name: str,
        ca_file: Path | None = None,
        answer_s: float = ANSWER_S,
        random: Random | None = None,
    ) -> None:
        """`ca_file` has the authorities that its certificate may be of; otherwise the system's."""
        self._address = address
        self._scripts = [*scripts]
        self._client_name = client_name
        self._answer_s = answer_s
        self._random = random or Random()  # noqa: S311 - spreads tries; keeps no secret
        self._encryption = ssl.create_default_context(cafile=ca_file) if address.is_encrypted else None
        self._warnings = LogLimit(logger)
        self._is_told_away = True
        self._on_change: Callable[[bool], None] = lambda _is_up: None
        self._trial: Callable[[], Command] | None = None

    def on_change(self, on_change: Callable[[bool], None]) -> None:
        """Have it called when Valkey is there, and when it is no longer."""
        self._on_change = on_change

    def try_with(self, trial: Callable[[], Command]) -> None:
        """Have each connection show that it can do what it is for, else it is not used: a server that may not write, or
        lets nobody, is no different from one that is away.
        """
        self._trial = trial

    @property
    def is_up(self) -> bool:
        return self._link is not None and not self._link.is_over

    def ask(self, command: Command) -> "asyncio.Future[object]":
        """The answer to a command. Raises ValkeyDown, at once where nothing can be asked."""
        link = self._link
        if link is None:
            raise ValkeyDown("it is away")
        return link.ask(command)

    def tell(self, command: bytes, on_lost: OnLost | None = None) -> None:
        """Send a command whose answer says nothing; `on_lost` is told it where it may not have arrived."""
        link = self._link
        try:
            if link is None:
                raise ValkeyDown("it is away")
            link.tell(command, on_lost)
        except ValkeyDown:
            if on_lost is not None:
                on_lost(command)

    async def begin(self) -> None:
        """Try to connect, once."""
        await self._connect()

    async def watch(self) -> None:
        """Connect, and again whenever the connection has ended, until cancelled; then hang up."""
        loop, rest_s = asyncio.get_running_loop(), _FIRST_REST_S
        try:
            while True:
                began_at_s = loop.time()
                if self._link is not None or await self._connect():
                    link = self._link
                    assert link is not None
                    await asyncio.shield(link.ended)
                is_steady = loop.time() - began_at_s >= _STEADY_S
                rest_s = _FIRST_REST_S if is_steady else min(2 * rest_s, _LONGEST_REST_S)
                await asyncio.sleep(rest_s * self._random.uniform(0.5, 1.0))
        finally:
            await self._hang_up()

    async def _hang_up(self) -> None:
        """Once what was told has left, unless that takes too long."""
        link, self._link = self._link, None
        if link is None:
            return
        link.close()
        await asyncio.wait([link.ended], timeout=self._answer_s)
        link.abort("the gateway ends")

    async def _connect(self) -> bool:
        loop, address, link = asyncio.get_running_loop(), self._address, self._new_link()
        try:
            async with asyncio.timeout(_CONNECT_S):
                await loop.create_connection(
                    lambda: link,
                    address.host,
                    address.port,
                    ssl=self._encryption,
                    server_hostname=address.host if self._encryption else None,
                )
                await asyncio.gather(*[link.ask(command) for command in self._opening()])
        except (OSError, ValkeyDown, TimeoutError) as error:
            link.abort("it could not be used")
            self._tell_away("cannot be used", str(error) or "it does not answer")
            return False
        except BaseException:
            link.abort("it is no longer wanted")
            raise
        self._link = link
        link.ended.add_done_callback(lambda ended: self._lost(link, ended.result()))
        if self._is_told_away:  # or one that comes and goes would fill the log
            self._is_told_away = False
            logger.info("connected to Valkey at %r", address)
        self._on_change(True)
        return True

    def _lost(self, link: Link, why: str) -> None:
        if self._link is link:
            self._link = None
            self._tell_away("is away", why)
            self._on_change(False)

    def _tell_away(self, what: str, why: str) -> None:
        if self._warnings.warning("Valkey at %r %s: %s", self._address, what, why):
            self._is_told_away = True

    def _new_link(self) -> Link:
        return Link(self._answer_s)

    def _opening(self) -> Iterable[Command]:
        """What is said first, in one write."""
        address = self._address
        if address.password:
            yield ("AUTH", address.user, address.password) if address.user else ("AUTH", address.password)
        if address.database:
            yield "SELECT", address.database
        yield "CLIENT", "SETNAME", self._client_name
        for script in self._scripts:
            yield "SCRIPT", "LOAD", script.text
        if self._trial is not None:
            yield self._trial()
