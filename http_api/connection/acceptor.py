"""Takes in all connections that wait, once one has come: libuv accepts one in each turn of the event loop.

Where hundreds of streams bring their frames in each turn, a turn takes long, and who comes would wait for as many turns
as there are others before it.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

logger = logging.getLogger(__name__)

_MOST = 128
"""In one turn, so that who is there already has its own."""


class Acceptor:
    """Makes connections, as uvicorn asks for them; `listen` says of which servers more are taken."""

    def __init__(self, make: Callable[..., asyncio.Protocol]) -> None:
        self._make = make
        self._listening: tuple[tuple[int, int], ...] = ()
        """The family and the descriptor of each socket, which stay the servers'."""
        self._entering: set[asyncio.Task[Any]] = set()

    def listen(self, servers: Iterable[asyncio.Server]) -> None:
        """From now on, where the event loop needs it: asyncio's own accepts all that wait."""
        if not isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
            self._listening = tuple((one.family, one.fileno()) for server in servers for one in server.sockets)

    def __call__(self, **context: Any) -> asyncio.Protocol:
        for family, descriptor in self._listening:
            self._take_waiting(family, descriptor, context)
        return self._make(**context)

    def _take_waiting(self, family: int, descriptor: int, context: dict[str, Any]) -> None:
        listening = socket.socket(family, socket.SOCK_STREAM, 0, descriptor)
        try:
            with contextlib.suppress(OSError):  # nobody waits any more; where there is no room, the loop complains
                for _ in range(_MOST):
                    self._enter(listening.accept()[0], context)
        finally:
            listening.detach()

    def _enter(self, arrived: socket.socket, context: dict[str, Any]) -> None:
        arrived.setblocking(False)
        loop = asyncio.get_running_loop()
        entering = loop.create_task(loop.connect_accepted_socket(partial(self._make, **context), arrived))
        self._entering.add(entering)
        entering.add_done_callback(self._entered)

    def _entered(self, entering: asyncio.Task[Any]) -> None:
        self._entering.discard(entering)
        if not entering.cancelled() and (error := entering.exception()) is not None:
            logger.warning("a connection was lost as it came: %s", error)
