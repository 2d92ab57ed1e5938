"""What may go wrong between a request and its answer, as the transport tells it.

UpstreamError
├── ConnectFailed         no connection: refused, unresolved, handshake failed
├── NoResources           no connection for want of something on this machine: descriptors, ports, memory
├── ConnectionDied        the connection ended inside an exchange
├── BadResponse           what came is not HTTP/1.1, or not an answer to this request
├── ResponseTooLarge      head or body above the limit
│   └── BodyTooLarge      the body
└── TimedOut              one of the waiting times ran out
"""

import errno
import re
import socket
from typing import Literal, Self

_OF_THIS_MACHINE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
_ERRNO = re.compile(r"\[Errno (\d+)\]")

Wait = Literal["connect", "queue", "first_token", "idle", "unary", "total"]


class UpstreamError(Exception):
    """The exchange failed; its connection is closed."""

    def anew(self) -> Self:
        """The same, to be raised: raised itself, an error that is kept would keep all frames, and a request's body."""
        twin = self.__class__.__new__(self.__class__, *self.args)
        twin.__dict__.update(self.__dict__)
        return twin


class ConnectFailed(UpstreamError):
    """No connection could be made."""


class NoResources(UpstreamError):
    """This machine had no descriptor, port or memory left for the connection, which says nothing of the backend."""


class ConnectionDied(UpstreamError):
    """The connection ended inside an exchange, `before_first_byte` of the answer or after."""

    def __init__(self, message: str, *, before_first_byte: bool) -> None:
        super().__init__(message)
        self.before_first_byte = before_first_byte


class BadResponse(UpstreamError):
    """The bytes that came are not a valid HTTP/1.1 answer (RFC 9112)."""


class ResponseTooLarge(UpstreamError):
    """The head or the body is above its limit."""


class BodyTooLarge(ResponseTooLarge):
    """The body is, which is no fault of who answers: so much was asked for."""


class TimedOut(UpstreamError):
    """The waiting time named by `which` ran out."""

    def __init__(self, which: Wait) -> None:
        super().__init__(f"{which} timeout")
        self.which = which


def is_of_this_machine(error: OSError) -> bool:
    """Whether it is for want of something here that a connection failed.

    Where a name has several addresses, the event loop joins the errors of all into one text without a number. Each must
    be of this kind then: a machine without IPv6 has no address to reach a server from, but the other address says why.
    """
    if isinstance(error, socket.gaierror):  # a resolver that can open nothing says that the name is unknown
        return not _can_open()
    found = [error.errno] if error.errno is not None else [int(number) for number in _ERRNO.findall(str(error))]
    return bool(found) and all(number in _OF_THIS_MACHINE for number in found)


def _can_open() -> bool:
    try:
        socket.socket().close()
    except OSError:
        return False
    return True
