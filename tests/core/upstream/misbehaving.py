"""A backend of ours that misbehaves on purpose: raw sockets, nothing between a test and the bytes.

A behaviour is what a server does with one connection; `reply` and the endings below compose into most of them.
"""

import asyncio
import datetime
import ipaddress
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.listening import closed
from tests.patience import PATIENCE_S


class Peer:
    """One accepted connection: what it has read, and means to do wrong."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.requests: list[bytes] = []
        self.is_gone = asyncio.Event()

    async def read_request(self) -> None:
        """Read one request, head and body, into `requests`; asyncio.IncompleteReadError when the client has left."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        _, _, length = head.lower().partition(b"content-length: ")
        body = await self.reader.readexactly(int(length.split(b"\r\n")[0])) if length else b""
        self.requests.append(head + body)

    async def send(self, data: bytes) -> None:
        """Send and wait until the kernel has most of it."""
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        with suppress(RuntimeError):  # uvloop's, where the client has closed it meanwhile
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def drain_until_gone(self) -> None:
        """Read and drop until the client closes or resets."""
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    async def gone(self) -> None:
        """Return when the connection is over; after `stall` that means the client has closed it."""
        async with asyncio.timeout(PATIENCE_S):
            await self.is_gone.wait()


Behaviour = Callable[[Peer], Awaitable[None]]


async def stall(peer: Peer) -> None:
    """Say nothing more, until the client leaves."""
    await peer.drain_until_gone()


async def close(peer: Peer) -> None:
    """Close the connection in good order."""


async def reset(peer: Peer) -> None:
    """Close the connection with RST."""
    peer.reset()


async def half_close(peer: Peer) -> None:
    """Close the sending side only, and go on listening."""
    peer.writer.write_eof()
    await peer.drain_until_gone()


async def be_deaf(peer: Peer) -> None:
    """Read nothing and say nothing."""
    await asyncio.Event().wait()


async def read_then_stall(peer: Peer) -> None:
    """Take a request and never answer."""
    await peer.read_request()
    await stall(peer)


def reply(*pieces: bytes, then: Behaviour = stall) -> Behaviour:
    """Take a request, send the pieces one by one in reads of their own, then go on with `then`."""

    async def behaviour(peer: Peer) -> None:
        await peer.read_request()
        for piece in pieces:
            await peer.send(piece)
            await asyncio.sleep(0)  # the client's turn: in one loop it reads each piece by itself
        await then(peer)

    return behaviour


def keep_replying(*pieces: bytes) -> Behaviour:
    """Answer every request of a connection the same way, until the client leaves."""

    async def behaviour(peer: Peer) -> None:
        while True:
            await reply(*pieces, then=close)(peer)

    return behaviour


def answer(body: bytes, status: int = 200, headers: bytes = b"") -> bytes:
    """A proper answer with a content length; `headers` are whole lines."""
    return b"HTTP/1.1 %d x\r\n%bcontent-length: %d\r\n\r\n%b" % (status, headers, len(body), body)


class MisbehavingServer:
    """Serves `behaviours` on 127.0.0.1: the first to the first connection and so on, the last to all that follow."""

    def __init__(self, *behaviours: Behaviour, ssl_context: ssl.SSLContext | None = None) -> None:
        self.behaviours = list(behaviours)
        self.peers: list[Peer] = []
        self.base_url = ""
        self._ssl = ssl_context
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._ssl)
        scheme = "https" if self._ssl else "http"
        self.base_url = f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await closed([self._server], self._cancel_all)

    @property
    def requests(self) -> list[bytes]:
        """All requests read so far."""
        return [request for peer in self.peers for request in peer.requests]

    def die(self) -> None:
        """Stop listening and reset every connection."""
        self._server.close()
        self._cancel_all()

    def _cancel_all(self) -> bool:
        """Whether there were some."""
        for task in self._tasks:
            task.cancel()
        return bool(self._tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        behaviour = self.behaviours[min(len(self.peers), len(self.behaviours) - 1)]
        self.peers.append(peer)
        task = asyncio.get_running_loop().create_task(self._run(behaviour, peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, behaviour: Behaviour, peer: Peer) -> None:
        try:
            await behaviour(peer)
            peer.writer.close()
            await peer.writer.wait_closed()
        except (OSError, RuntimeError, asyncio.IncompleteReadError):  # uvloop's word for a client that has left
            peer.writer.transport.abort()
        except asyncio.CancelledError:
            peer.reset()
            raise
        finally:
            peer.is_gone.set()


def make_certificate(folder: Path, *names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A self-signed certificate for 127.0.0.1 and these names: the server's context, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([loopback, *map(x509.DNSName, names)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    plain = serialization.NoEncryption()
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cafile=str(file))
