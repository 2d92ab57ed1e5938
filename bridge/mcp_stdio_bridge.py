# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2>=2.16"]
# ///
"""Connects an MCP client that speaks stdio to an MCP server behind a URL (streamable HTTP, or HTTP+SSE).

Knows JSON-RPC framing, the two HTTP transports and how a session begins; does not know what the tools do. One file that
runs alone: `python mcp_stdio_bridge.py URL` or `uv run mcp_stdio_bridge.py URL`, the key in GATEWAY_API_KEY. Standard
output carries frames only; the log goes to standard error and never holds content.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import codecs
import contextlib
import importlib.util
import ipaddress
import json
import os
import queue
import random
import re
import select
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, NamedTuple, NoReturn, Protocol
from urllib.parse import parse_qsl, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

try:
    import httpx2
except ModuleNotFoundError:  # the script may be run by a bare interpreter; main() says in one line what to do
    httpx2 = None  # type: ignore[assignment]

CONNECT_TIMEOUT_S = 5.0
OPEN_TIMEOUT_S = 10.0  # until an SSE connection has named its endpoint
NOTICE_TIMEOUT_S = 30.0  # until a frame that has no answer of its own is accepted
WRITE_TIMEOUT_S = 300.0  # 10 MB over a slow line
ANSWER_TIMEOUT_S = 900.0  # until an answer begins; longer than any gateway lets a unary call run
UNPINGED_SILENCE_S = 300.0  # a stream that has never pinged may be silent for so long
PINGED_SILENCE_S = 45.0  # one that pings (servers do every 15 s) is dead after three missing pings
KEEPALIVE_EXPIRY_S = 4.0  # below the 5 s after which common servers close idle connections: no call meets a closing one
CLOSE_TIMEOUT_S = 0.75
LEAVING_TIMEOUT_S = 1.0  # for the last answers; the SDKs end a process that has not ended 2 s after its input
SCRIPT_TIMEOUT_S = 60.0  # for those that a script waits for: as long as the SDKs wait for an answer
SHORTEST_POLL_S = 0.1
BACKOFF_S = (0.5, 30.0)  # first and longest wait before a stream is opened again
MAX_REDIRECTS = 5

PARSE_ERROR, INVALID_REQUEST, INTERNAL_ERROR, SERVER_ERROR = -32700, -32600, -32603, -32000  # JSON-RPC 2.0, section 5.1
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
QUOTES = (('"', '"'), ("'", "'"), ("`", "`"), ("\u201c", "\u201d"), ("\u2018", "\u2019"))  # word processors' too
PORTS = {"http": 80, "https": 443}
CERTIFICATE_FAULTS = (9, 10, 62, 64)  # not valid yet, expired, of another host or address: no authority would help
NAME_PARAMETERS = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}  # what Mcp-Name repeats
STREAM = "text/event-stream"
LARGE_BYTES = 1024 * 1024
LINE_ENDS = ((b"\xe2\x80\xa8", rb"\u2028"), (b"\xe2\x80\xa9", rb"\u2029"), (b"\xc2\x85", rb"\u0085"))
"""Unicode's, at which some clients end a line, and their escapes in JSON."""
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

JsonObject = dict[str, Any]
Deliver = Callable[[JsonObject, bytes], Awaitable[None]]


class Problem(Exception):
    """Why a frame got no answer; `error` is the JSON-RPC error that tells the client."""

    def __init__(self, message: str, *, code: int = SERVER_ERROR, data: JsonObject | None = None) -> None:
        super().__init__(message)
        self.error: JsonObject = {"code": code, "message": message} | ({"data": data} if data else {})


class Unreachable(Problem):
    """The server was not reached: the frame was certainly not delivered."""

    def __init__(self, reason: str) -> None:
        data = {"type": "server_unreachable", "may_have_been_delivered": False}
        super().__init__(f"The MCP server cannot be reached, the call was not delivered: {reason}", data=data)


class Lost(Problem):
    """The connection ended before the answer came: the frame may have been delivered, so it is not sent again."""

    def __init__(self) -> None:
        message = (
            "The connection to the MCP server was lost before the answer came. The call may have been carried out, "
            "so it was not sent again."
        )
        super().__init__(message, data={"type": "connection_lost", "may_have_been_delivered": True})


class Unusable(Exception):
    """What the environment says cannot be used; the text names the variable and never its value."""


class HttpRefusal(Problem):
    """An HTTP status other than success, without a JSON-RPC error in its body."""


class NotStreamable(Problem):
    """The URL refuses POST in a way that an HTTP+SSE server would; tells the client what the refusal said."""

    def __init__(self, refusal: Problem) -> None:
        super().__init__(f"{refusal} Is this the MCP address? A gateway's ends in /v1/mcp.")
        self.error = refusal.error | {"message": str(self)}


class NotSse(Problem):
    """The URL has no stream of HTTP+SSE; tells the client what the refusal said."""

    def __init__(self, refusal: Problem) -> None:
        super().__init__(f"{refusal} Is this the address of an HTTP+SSE stream? A gateway's ends in /v1/mcp/sse.")
        self.error = refusal.error | {"message": str(self)}


class SessionGone(Exception):
    """The server does not know the session (any more) and has not taken the frame."""


@dataclass(frozen=True, slots=True)
class McpFrame:
    """One JSON-RPC message of the client: its bytes, relayed as they are unless they are many, and what they say.

    A replay is a handshake that the bridge repeats by itself: the client is not shown the answer.
    """

    body: bytes
    message: JsonObject
    is_replay: bool = False

    @classmethod
    def parse(cls, line: bytes) -> McpFrame:
        """Reads one line; raises Problem (-32700 not JSON, -32600 not one JSON-RPC message)."""
        try:
            message = json.loads(line.decode())
        except (ValueError, RecursionError):
            raise Problem("Parse error: the line is not JSON", code=PARSE_ERROR) from None
        if not isinstance(message, dict) or not _is_sound(message):
            raise Problem("Invalid request: a line holds one JSON-RPC message", code=INVALID_REQUEST)
        return cls(line if len(line) <= LARGE_BYTES else unescaped(line, message), message)

    @property
    def id(self) -> Any:
        return self.message.get("id")

    @property
    def method(self) -> str:
        return str(self.message.get("method", ""))

    @property
    def params(self) -> JsonObject:
        params = self.message.get("params")
        return params if isinstance(params, dict) else {}

    @property
    def is_request(self) -> bool:
        return "method" in self.message and "id" in self.message

    @property
    def version(self) -> str | None:
        """The protocol version that the frame itself names (2026-07-28 and later), else None."""
        meta = self.params.get("_meta")
        version = meta.get(VERSION_KEY) if isinstance(meta, dict) else None
        return version if isinstance(version, str) else None

    def is_answered_by(self, message: JsonObject) -> bool:
        """Whether a message of the server is the result or error of this request."""
        return "method" not in message and message.get("id") == self.id


def is_id(value: object) -> bool:
    """Whether a value can be the id of a request."""
    return isinstance(value, str | int | float)


def _is_sound(message: JsonObject) -> bool:
    return isinstance(message.get("method", ""), str) and ("method" not in message or is_id(message.get("id", 0)))


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event (WHATWG HTML, section 9.2)."""

    kind: str
    data: bytes
    id: str
    retry_s: float | None

    @property
    def is_message(self) -> bool:
        return self.kind == "message" and self.data != b""


async def read_events(response: httpx2.Response) -> AsyncIterator[Event]:
    """The events of a stream; raises TimeoutError when it falls silent."""
    chunks = aiter(response.aiter_bytes())
    silence_s = UNPINGED_SILENCE_S
    reader = LineSplitter()
    fields: dict[bytes, list[bytes]] = {}
    while True:
        async with asyncio.timeout(silence_s):
            chunk = await anext(chunks, None)
        if chunk is None:
            return
        for line in reader.feed(chunk):
            name, _, value = line.partition(b":")
            if name:
                fields.setdefault(name, []).append(value.removeprefix(b" "))
            elif line:
                silence_s = PINGED_SILENCE_S
            elif fields:
                yield _event(fields)
                fields = {}


class LineSplitter:
    """Whole lines of an event stream: they end in LF, CR LF or CR, and a byte order mark may stand before the first."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._has_begun = self._ended_in_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        if self._ended_in_cr:  # a CR LF that was cut in two
            chunk = chunk.removeprefix(b"\n")
        self._ended_in_cr = chunk.endswith(b"\r")
        first, *rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._parts.append(first)
        if not rest:
            return []
        lines = [b"".join(self._parts), *rest[:-1]]
        self._parts = rest[-1:]
        if not self._has_begun:
            self._has_begun = True
            lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
        return lines


def is_stream(response: httpx2.Response) -> bool:
    """Whether an answer is an event stream; media types have no case (RFC 9110, 8.3.1)."""
    media_type, _, _ = response.headers.get("content-type", "").partition(";")
    return media_type.strip().lower() == STREAM


def _event(fields: dict[bytes, list[bytes]]) -> Event:
    kind, event_id, retry = (
        fields.get(name, [b""])[-1].decode(errors="replace") for name in (b"event", b"id", b"retry")
    )
    # a line break in JSON is only white space between tokens, so a space says the same
    data = b" ".join(fields.get(b"data", []))
    return Event(kind or "message", data, event_id, int(retry) / 1000 if retry.isdecimal() else None)


def parse_message(data: bytes) -> JsonObject:
    """One message of the server; raises Problem when it is none."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise Problem("The server's answer is not a JSON-RPC message. Is the URL that of an MCP server?")
    return message


async def refusal(response: httpx2.Response) -> Problem:
    """What an HTTP status other than success says, in the server's own words where it has some."""
    body = await response.aread()
    try:
        error = json.loads(body)["error"]
        message = f"{error['message']}{_key_hint(response)}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return HttpRefusal(_status_text(response), data={"type": "http_error", "status": response.status_code})
    if isinstance(error.get("code"), int):
        return Problem(message, code=error["code"], data=error.get("data"))
    data = {name: error.get(name) for name in ("type", "code", "param")} | {"status": response.status_code}
    retry_after = response.headers.get("retry-after", "")
    return HttpRefusal(message, data=data | ({"retry_after_s": int(retry_after)} if retry_after.isdecimal() else {}))


def _status_text(response: httpx2.Response) -> str:
    text = f"The server answered {response.status_code} {response.reason_phrase}".rstrip()
    location = response.headers.get("location")
    where = f", redirecting to {location}: use that URL if it is the right one" if location else ""
    hint = _key_hint(response)
    return f"{text}{where}.{hint}" if hint else f"{text}{where}"


def _key_hint(response: httpx2.Response) -> str:
    """What to do where a server would have a person sign in, which only a client that has a browser can do."""
    if response.status_code != HTTPStatus.UNAUTHORIZED or "resource_metadata" not in response.headers.get(
        "www-authenticate", ""
    ):
        return ""
    return (
        " The server would have one sign in, which this bridge cannot: put an API key into GATEWAY_API_KEY; a guest "
        "asks a gateway at /v1/mcp/guest."
    )


def one_line(text: str) -> str:
    """Text as a terminal may be given it: what a server says must not move its cursor."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Log:
    """Lines on standard error; of a frame only method, id, size and time, since hosts keep this log."""

    def __init__(self, *, is_verbose: bool) -> None:
        self._is_verbose = is_verbose

    def __call__(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads the log: that is no reason to stop
            print(f"mcp bridge: {one_line(text)}", file=sys.stderr, flush=True)

    def frame(self, arrow: str, message: JsonObject, size_bytes: int, took_s: float | None = None) -> None:
        """Logs one frame when debugging; `arrow` is "->" towards the server and "<-" from it."""
        if not self._is_verbose:
            return
        method = str(message.get("method", "error" if "error" in message else "result"))[:64]
        request_id = f" id={str(message['id'])[:64]}" if "id" in message else ""
        took = "" if took_s is None else f" {took_s:.3f} s"
        self(f"{arrow} {method}{request_id} {size_bytes} B{took}")


class Remote:
    """The server's URL and the HTTP client that both transports share; `way` says what requests pass, if anything."""

    def __init__(self, client: httpx2.AsyncClient, url: str, log: Log, way: str = "") -> None:
        self.url = url
        self.log = log
        self._client = client
        self._way = way

    @contextlib.asynccontextmanager
    async def exchange(
        self, method: str, headers: dict[str, str], body: bytes | None = None, *, url: str | None = None
    ) -> AsyncIterator[httpx2.Response]:
        """One HTTP request and its streamed response; raises Unreachable or Lost, also while the body is read."""
        target: str | None = url or self.url
        try:
            for _ in range(MAX_REDIRECTS):
                assert target
                async with self._client.stream(method, target, headers=headers, content=body) as response:
                    target = moved_to(target, method, response)
                    if target is None:
                        yield response
                        return
                    if response.status_code == HTTPStatus.PERMANENT_REDIRECT and url is None:
                        self.url = target
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError, httpx2.LocalProtocolError) as error:
            raise Unreachable(reason_of(error) + self._way) from error
        except (httpx2.RequestError, TimeoutError) as error:
            raise Lost from error
        raise Problem(f"The server redirects more than {MAX_REDIRECTS} times")


def moved_to(url: str, method: str, response: httpx2.Response) -> str | None:
    """Where the same request is to be sent instead, if that is of the same origin: the key is for no other."""
    statuses = (301, 302, 303, 307, 308) if method == "GET" else (307, 308)
    location = response.headers.get("location")
    if response.status_code not in statuses or not location:
        return None
    return within_origin(url, location)


def within_origin(url: str, reference: str) -> str | None:
    """A reference as a URL of the same origin, however it spells that; None where it is of another, or none."""
    try:
        target = urljoin(url, reference)
    except ValueError:
        return None
    if origin_of(target) is None or origin_of(target) != origin_of(url):
        return None
    return urlsplit(target)._replace(scheme=urlsplit(url).scheme, netloc=urlsplit(url).netloc).geturl()


def origin_of(url: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and port, however they are spelt; None for what has none, or holds a user's name."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or PORTS.get(parts.scheme)
    except ValueError:
        return None
    if not host or parts.username is not None:
        return None
    with contextlib.suppress(ValueError):
        return parts.scheme, ipaddress.ip_address(host).compressed, port
    with contextlib.suppress(UnicodeError):
        host = host.encode("idna").decode()
    return parts.scheme, host.rstrip("."), port


def reason_of(error: BaseException) -> str:
    """Why the server was not reached; of a certificate, what to do about it."""
    cause: BaseException | None = error
    while not isinstance(cause, ssl.SSLCertVerificationError):
        if cause is None:
            return str(error) or type(error).__name__
        cause = cause.__cause__ or cause.__context__
    told = f"its certificate is not trusted ({cause.verify_message})"
    if cause.verify_code in CERTIFICATE_FAULTS:
        return told
    return f"{told}; name the certificate file of the authority that signed it in SSL_CERT_FILE"


class McpTransport(Protocol):
    """How frames reach the server; everything that comes back goes to the function given to the constructor."""

    name: str

    async def send(self, frame: McpFrame) -> None:
        """Returns when the frame is accepted and, if it is a request, answered; raises Problem."""

    def forwards_cancel_of(self, request: McpFrame) -> bool:
        """Whether the server is told by a notification (else by closing the response) that a request is cancelled."""

    async def aclose(self) -> None:
        """Ends the session."""


@dataclass(frozen=True, slots=True)
class ServerSession:
    """What a handshake of the older revisions agreed on; the server may keep no session (`id` is None)."""

    id: str | None
    version: str | None

    @property
    def headers(self) -> dict[str, str]:
        named = {"mcp-session-id": self.id, "mcp-protocol-version": self.version}
        return {name: value for name, value in named.items() if isinstance(value, str)}


def encode_header(value: str) -> str:
    """A header value, wrapped in base64 where HTTP could not carry it (MCP 2026-07-28, streamable HTTP)."""
    is_plain = re.fullmatch(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?", value) and not value.startswith("=?base64?")
    return value if is_plain else f"=?base64?{base64.b64encode(value.encode(errors='replace')).decode()}?="


def modern_headers(frame: McpFrame) -> dict[str, str]:
    """The headers that repeat a frame's version, method and name (MCP 2026-07-28, streamable HTTP)."""
    headers = {"mcp-protocol-version": frame.version or "", "mcp-method": frame.method}
    name = frame.params.get(NAME_PARAMETERS.get(frame.method, ""))
    if isinstance(name, str):
        headers["mcp-name"] = name
    return {key: encode_header(value) for key, value in headers.items()}


@dataclass(slots=True)
class ResumePoint:
    """Where a response stream that the server ended before its answer can be taken up again."""

    event_id: str = ""
    retry_s: float = 1.0


class StreamableHttpTransport:
    """Streamable HTTP: one POST a frame; for the older revisions also the session and the GET stream."""

    name = "streamable HTTP"

    def __init__(self, remote: Remote, deliver: Deliver) -> None:
        self._remote = remote
        self._deliver = deliver
        self._session: ServerSession | None = None
        self._initialize: McpFrame | None = None
        self._initialized: McpFrame | None = None
        self._renewal = asyncio.Lock()
        self._listener: asyncio.Task[None] | None = None
        self._listened: ServerSession | None = None
        self._is_confirmed = False

    def forwards_cancel_of(self, request: McpFrame) -> bool:
        return request.version is None

    async def send(self, frame: McpFrame) -> None:
        if frame.method == "initialize":
            self._forget_session()
        async with self._renewal:  # a session that is being opened again takes nothing else yet
            session = self._session
        if frame.method == "notifications/initialized":
            self._initialized = frame  # also if it gets lost: the client holds the session to be open
        try:
            await self._post(frame)
        except SessionGone:  # 404: the server did not take the frame, so sending it again is safe
            await self._renew(session)
            await self._post_again(frame)

    async def aclose(self) -> None:
        session = self._session
        self._forget_session()
        if session and session.id:
            async with self._remote.exchange("DELETE", session.headers):
                pass

    def _forget_session(self) -> None:
        self._session = self._initialize = self._initialized = None
        if self._listener:
            self._listener.cancel()

    def _headers(self, frame: McpFrame) -> dict[str, str]:
        if frame.version:
            return modern_headers(frame)
        return self._session.headers if self._session and frame.method != "initialize" else {}

    async def _post(self, frame: McpFrame) -> None:
        headers = {"accept": f"application/json, {STREAM}", "content-type": "application/json"} | self._headers(frame)
        async with self._remote.exchange("POST", headers, frame.body) as response:
            if response.status_code == HTTPStatus.NOT_FOUND and "mcp-session-id" in headers:
                raise SessionGone
            await self._check(response)
            point = await self._take_answer(frame, response) if frame.is_request else None
        while point:
            await asyncio.sleep(max(point.retry_s, SHORTEST_POLL_S))
            resume = {"accept": STREAM, "last-event-id": point.event_id} | self._headers(frame)
            async with self._remote.exchange("GET", resume) as response:
                if not response.is_success:
                    raise Lost
                point = await self._relay_stream(frame, response, point)
        if frame.method == "notifications/initialized":
            self._listen_anew()

    async def _post_again(self, frame: McpFrame) -> None:
        try:
            await self._post(frame)
        except SessionGone:
            raise Problem("The server refused the session that it had just opened") from None

    async def _check(self, response: httpx2.Response) -> None:
        if response.is_success:
            self._is_confirmed = True
            return
        raise self._told(response.status_code, await refusal(response))  # a name would keep what it is raised through

    def _told(self, status: int, problem: Problem) -> Problem:
        """A refusal, or what an HTTP+SSE server's looks like."""
        may_be_sse = status == HTTPStatus.METHOD_NOT_ALLOWED or (
            status in (400, 404) and isinstance(problem, HttpRefusal)
        )
        return NotStreamable(problem) if may_be_sse and not self._is_confirmed else problem

    async def _take_answer(self, frame: McpFrame, response: httpx2.Response) -> ResumePoint | None:
        if is_stream(response):
            return await self._relay_stream(frame, response, ResumePoint())
        body = await response.aread()
        message = parse_message(body)
        if not frame.is_answered_by(message):
            raise Problem("The server answered with a message that is not the answer to this call")
        await self._relay(frame, response, message, body)
        return None

    async def _relay_stream(self, frame: McpFrame, response: httpx2.Response, point: ResumePoint) -> ResumePoint | None:
        """Relays until the answer has come (None) or the stream ends (where to resume); raises Lost if it cannot be."""
        try:
            async for event in read_events(response):
                point = ResumePoint(
                    event.id or point.event_id, point.retry_s if event.retry_s is None else event.retry_s
                )
                if not event.is_message:
                    continue
                message = parse_message(event.data)
                await self._relay(frame, response, message, event.data)
                if frame.is_answered_by(message):
                    return None
        except (httpx2.TransportError, TimeoutError):
            if not point.event_id:
                raise
        if not point.event_id:
            raise Lost
        return point

    async def _relay(self, frame: McpFrame, response: httpx2.Response, message: JsonObject, body: bytes) -> None:
        if frame.is_answered_by(message):
            if frame.is_replay and "result" not in message:
                raise Problem("The server refused to open the session again")
            if frame.method == "initialize" and isinstance(message.get("result"), dict):
                version = message["result"].get("protocolVersion")
                self._session = ServerSession(response.headers.get("mcp-session-id"), version)
                self._initialize = frame
            if frame.is_replay:
                return
        await self._deliver(message, body)

    async def _renew(self, stale: ServerSession | None) -> None:
        """Opens the session again with the client's own handshake, once however many calls found it gone."""
        async with self._renewal:
            if self._session is not stale or self._initialize is None:
                return
            self._remote.log("the server does not know the session any more: opening it again")
            initialized = self._initialized
            try:
                await self._post(replace(self._initialize, is_replay=True))
                if initialized:
                    await self._post_again(initialized)
            except (Problem, asyncio.CancelledError):
                self._session = stale  # so that the next call tries again
                raise

    def _listen_anew(self) -> None:
        if self._listener is asyncio.current_task():  # it has renewed the session itself, and goes on with the new one
            return
        if self._listener:
            self._listener.cancel()
        has_stream = self._session is not None and self._session.id is not None
        self._listener = asyncio.create_task(self._listen()) if has_stream else None

    async def _listen(self) -> None:
        """Keeps the GET stream open, on which servers of the older revisions speak unasked."""
        async for _ in backoff():
            session = self._session
            if session is None:
                return
            try:
                if not await self._listen_once(session):
                    return
            except SessionGone:
                if self._listened is not session:
                    return  # it knows the session but has no such stream
                with contextlib.suppress(Problem):
                    await self._renew(session)
            except Problem as problem:
                self._remote.log(f"the stream of server notifications was interrupted ({type(problem).__name__})")

    async def _listen_once(self, session: ServerSession) -> bool:
        """Relays one GET stream to its end; False when the server has none."""
        async with self._remote.exchange("GET", {"accept": STREAM} | session.headers) as response:
            if response.status_code == HTTPStatus.NOT_FOUND:
                raise SessionGone
            if response.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
                return False
            if not response.is_success:
                raise await refusal(response)
            self._listened = session
            async for event in read_events(response):
                if event.is_message:
                    await self._deliver(parse_message(event.data), event.data)
        return True


async def backoff() -> AsyncIterator[None]:
    """Yields at once, then after waits that double, and start over after a turn that lasted longer than the wait."""
    shortest_s, longest_s = BACKOFF_S
    wait_s = shortest_s
    while True:
        began = time.monotonic()
        yield
        if time.monotonic() - began > wait_s:
            wait_s = shortest_s
        await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 (spreads clients, guards nothing)
        wait_s = min(wait_s * 2, longest_s)


@dataclass(eq=False, slots=True)
class SseConnection:
    """One GET stream of HTTP+SSE: where to POST, and which requests wait to hear whether an answer came on it."""

    endpoint: asyncio.Future[str]
    waiting: dict[Any, asyncio.Future[bool]] = field(default_factory=dict)
    reader: asyncio.Task[None] | None = None
    is_used: bool = False


class HttpSseTransport:
    """HTTP+SSE (2024-11-05): frames are POSTed to an endpoint, all answers come on one GET stream."""

    name = "HTTP+SSE"

    def __init__(self, remote: Remote, deliver: Deliver) -> None:
        self._remote = remote
        self._deliver = deliver
        self._initialize: McpFrame | None = None
        self._initialized: McpFrame | None = None
        self._connection: SseConnection | None = None
        self._reconnector: asyncio.Task[None] | None = None
        self._is_closed = False

    def forwards_cancel_of(self, request: McpFrame) -> bool:
        return True

    async def send(self, frame: McpFrame) -> None:
        if frame.method == "initialize":
            self._begin_handshake(frame)
        elif frame.method == "notifications/initialized":
            self._initialized = frame  # also if it gets lost: the client holds the session to be open
        try:
            await self._send_once(frame)
        except SessionGone:  # the server did not take the frame, so sending it again is safe
            self._remote.log("the server does not know the session any more: opening it again")
            try:
                await self._send_once(frame)
            except SessionGone:
                raise Problem("The server refused the session that it had just opened") from None

    async def connect(self) -> SseConnection:
        """The open connection, or a new one with the handshake replayed; raises Problem when there is none."""
        if self._connection is None:
            self._connection = SseConnection(asyncio.get_running_loop().create_future())
            self._connection.reader = asyncio.create_task(self._read(self._connection))
        connection = self._connection
        await asyncio.shield(connection.endpoint)
        return connection

    async def aclose(self) -> None:
        self._is_closed = True
        if self._reconnector:
            self._reconnector.cancel()
        if self._connection and self._connection.reader:
            self._connection.reader.cancel()
            await asyncio.wait([self._connection.reader])

    def _begin_handshake(self, frame: McpFrame) -> None:
        # some servers settle on a revision with the first frame of a connection, so a probe must not share it
        if self._connection and self._connection.is_used:
            self._drop(self._connection)
        self._initialize, self._initialized = frame, None

    def _drop(self, connection: SseConnection) -> None:
        if self._connection is connection:
            self._connection = None
        if connection.reader:
            connection.reader.cancel()

    async def _send_once(self, frame: McpFrame) -> None:
        connection = await self.connect()
        connection.is_used = True
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if frame.is_request:
            connection.waiting[frame.id] = answered
        try:
            await self._post(connection.endpoint.result(), frame)
            if frame.is_request and not await answered:
                raise Lost
        except SessionGone:
            self._drop(connection)
            raise
        finally:
            connection.waiting.pop(frame.id, None)

    async def _post(self, endpoint: str, frame: McpFrame) -> None:
        async with self._remote.exchange(
            "POST", {"content-type": "application/json"}, frame.body, url=endpoint
        ) as response:
            if response.status_code == HTTPStatus.NOT_FOUND:
                raise SessionGone
            if not response.is_success:
                raise await refusal(response)

    async def _read(self, connection: SseConnection) -> None:
        """Lives as long as the connection: opens it, relays what comes, tells those who wait that it ended."""
        problem: Problem = Unreachable("the event stream could not be opened")
        try:
            async with (
                asyncio.timeout(OPEN_TIMEOUT_S) as opening,
                self._remote.exchange("GET", {"accept": STREAM}) as response,
            ):
                events = await self._open(connection, response)
                opening.reschedule(None)
                async for event in events:
                    if event.is_message:
                        await self._receive(connection, event.data)
        except (SessionGone, Lost, TimeoutError):
            pass
        except Problem as raised:
            problem = raised
        finally:
            self._end(connection, problem)

    async def _open(self, connection: SseConnection, response: httpx2.Response) -> AsyncIterator[Event]:
        if not response.is_success:
            problem = await refusal(response)
            raise NotSse(problem) if response.status_code in (400, 404, 405, 406) else problem
        if not is_stream(response):
            raise NotSse(Problem("The URL answers, but not with an event stream."))
        events = read_events(response)
        endpoint = await self._endpoint(events, str(response.url))
        if self._initialize and self._initialized:
            await self._replay(endpoint, self._initialize, self._initialized, events)
        connection.endpoint.set_result(endpoint)
        return events

    async def _endpoint(self, events: AsyncIterator[Event], url: str) -> str:
        async for event in events:
            if event.kind == "endpoint":
                endpoint = within_origin(url, event.data.decode(errors="replace").strip())
                if endpoint is None:
                    raise Problem("The server names an endpoint on another host, which is not followed")
                return endpoint
        raise Lost

    async def _replay(
        self, endpoint: str, initialize: McpFrame, initialized: McpFrame, events: AsyncIterator[Event]
    ) -> None:
        self._remote.log("the connection was opened again")
        await self._post(endpoint, initialize)
        async for event in events:
            if not event.is_message:
                continue
            message = parse_message(event.data)
            if not initialize.is_answered_by(message):
                await self._deliver(message, event.data)
            elif "result" not in message:
                raise Problem("The server refused to open the session again")
            else:
                return await self._post(endpoint, initialized)
        raise Lost

    async def _receive(self, connection: SseConnection, data: bytes) -> None:
        message = parse_message(data)
        await self._deliver(message, data)
        request_id = message.get("id")
        answered = connection.waiting.get(request_id) if "method" not in message and is_id(request_id) else None
        if answered and not answered.done():
            answered.set_result(True)

    def _end(self, connection: SseConnection, problem: Problem) -> None:
        if self._connection is connection:
            self._connection = None
        for answered in connection.waiting.values():
            if not answered.done():
                answered.set_result(False)
        if not connection.endpoint.done():
            connection.endpoint.set_exception(problem)
            connection.endpoint.exception()  # whoever waited for it may have been cancelled
        elif not self._is_closed and (self._reconnector is None or self._reconnector.done()):
            self._reconnector = asyncio.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        async for _ in backoff():
            with contextlib.suppress(Problem):
                await self.connect()
                return


@dataclass(frozen=True, slots=True)
class PendingCall:
    """A request on its way."""

    frame: McpFrame
    task: asyncio.Task[None]
    began: float


class Bridge:
    """The client's side: takes its lines, knows which calls are under way, answers when the server cannot."""

    def __init__(self, remote: Remote, transport: str, write: Callable[[bytes], Awaitable[None]]) -> None:
        self._remote = remote
        self._log = remote.log
        self._write = write
        self._may_fall_back = transport == "auto"
        self._falling_back = asyncio.Lock()
        self._calls: dict[Any, PendingCall] = {}
        self._handshake: asyncio.Task[None] | None = None
        self.has_answered = False
        kind = HttpSseTransport if transport == "sse" else StreamableHttpTransport
        self.transport: McpTransport = kind(remote, self._deliver)

    async def take(self, line: bytes) -> None:
        """Takes one line: starts a request as a task, sends anything else before it returns."""
        try:
            frame = McpFrame.parse(line)
        except Problem as problem:
            await self._answer(None, problem)
            return
        self._log.frame("->", frame.message, len(line))
        if frame.is_request:
            self._start(frame)
        elif frame.method == "notifications/cancelled":
            await self._cancel(frame)
        else:
            await self._notify(frame)

    async def wait_for_answers(self) -> None:
        """Returns when nothing is under way."""
        while self._calls:
            await asyncio.wait([call.task for call in self._calls.values()])

    async def aclose(self) -> None:
        """Cancels what is under way and ends the session, in a bounded time."""
        tasks = [call.task for call in self._calls.values()]
        if tasks:
            self._log(f"calls cancelled, since the client has left or the bridge was told to end: {len(tasks)}")
        for task in tasks:
            task.cancel()
        with contextlib.suppress(Problem, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await asyncio.gather(*tasks, return_exceptions=True)
                await self.transport.aclose()

    def _start(self, frame: McpFrame) -> None:
        call = PendingCall(frame, asyncio.create_task(self._call(frame)), time.monotonic())
        self._calls[frame.id] = call
        if frame.method == "initialize":
            self._handshake = call.task
        call.task.add_done_callback(lambda _: self._forget(call))

    def _forget(self, call: PendingCall) -> None:
        if self._calls.get(call.frame.id) is call:  # a client that uses an id twice has replaced it
            del self._calls[call.frame.id]

    async def _call(self, frame: McpFrame) -> None:
        try:
            await self._send(frame)
        except Problem as problem:
            await self._answer(frame.id, problem)
        except Exception as error:  # noqa: BLE001 - whatever happens, a call is answered
            await self._answer(frame.id, Problem(f"The bridge failed: {type(error).__name__}", code=INTERNAL_ERROR))

    async def _notify(self, frame: McpFrame) -> None:
        try:
            async with asyncio.timeout(NOTICE_TIMEOUT_S):
                await self._send(frame)
        except Exception as error:  # noqa: BLE001 - nobody is there to tell, and the next frame may fare better
            # a server's words may repeat what was sent, its codes do not
            why = f"refused with {error.error['code']}" if type(error) is Problem else type(error).__name__
            self._log(f"{frame.method[:64] or 'an answer'} was not delivered ({why})")

    async def _cancel(self, notice: McpFrame) -> None:
        request_id = notice.params.get("requestId")
        call = self._calls.get(request_id) if is_id(request_id) else None
        if call is None:
            return
        if self.transport.forwards_cancel_of(call.frame):
            await self._notify(notice)
        call.task.cancel()

    async def _send(self, frame: McpFrame) -> None:
        await self._in_order(frame)
        transport = self.transport
        try:
            await transport.send(frame)
        except NotStreamable as refused:
            if not self._may_fall_back:
                raise
            async with self._falling_back:
                if self.transport is transport:
                    self.transport = await self._fall_back(refused)
            await self.transport.send(frame)

    async def _in_order(self, frame: McpFrame) -> None:
        """What a script sends behind its handshake, without waiting for it, belongs to the session that this opens."""
        is_opening = frame.method == "initialize" or frame.version is not None
        if self._handshake and not self._handshake.done() and frame.method and not is_opening:
            await asyncio.wait([self._handshake])

    async def _fall_back(self, refused: NotStreamable) -> McpTransport:
        sse = HttpSseTransport(self._remote, self._deliver)
        try:
            await sse.connect()
        except Problem:
            raise refused from None
        self._log("the server speaks HTTP+SSE")
        return sse

    async def _answer(self, request_id: Any, problem: Problem) -> None:
        message = {"jsonrpc": "2.0", "id": request_id, "error": problem.error}
        await self._deliver(message, json.dumps(message).encode())

    async def _deliver(self, message: JsonObject, body: bytes) -> None:
        """Writes one frame to the client."""
        call = self._calls.get(message["id"]) if "method" not in message and is_id(message.get("id")) else None
        self._log.frame("<-", message, len(body), time.monotonic() - call.began if call else None)
        await self._write(as_line(body))
        self.has_answered = True


def unescaped(line: bytes, message: JsonObject) -> bytes:
    """The same message with its characters as they are, where escapes make up to three times as much of them.

    A server bounds what it takes by its bytes. What Python would write otherwise (half a character, a number beyond a
    double) stays as it came.
    """
    if b"\\u" not in line:
        return line
    try:
        return json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        return line


def as_line(frame: bytes) -> bytes:
    """JSON as one line for any reader: CR and LF stand between its tokens, Unicode's line ends within its strings."""
    frame = frame.replace(b"\r", b" ").replace(b"\n", b" ")
    if not frame.isascii():
        for raw, escape in LINE_ENDS:
            frame = frame.replace(raw, escape)
    return frame + b"\n"


def read_lines(descriptor: int) -> Iterator[bytes]:
    """Lines of a pipe until it ends, without their ends and without empty ones; blocks, so it runs in a thread."""
    # neither sys.stdin nor an event loop's pipe reader: the one blocks interpreter exit, the other fails on Windows
    parts: list[bytes] = []
    while chunk := os.read(descriptor, 1 << 16):
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            if line := b"".join([*parts, end]).strip():
                yield line
            parts.clear()
        parts.append(rest)
    if line := b"".join(parts).strip():
        yield line


def tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *arguments: object) -> None:
    """Calls back in the loop's thread, unless the loop is closed already."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *arguments)


class FrameWriter:
    """Writes frames to a pipe in a thread of its own, so that a client that does not read blocks nothing else.

    `is_unread` is set when nobody will read any more.
    """

    def __init__(self, descriptor: int) -> None:
        self.is_unread = asyncio.Event()
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._frames: queue.SimpleQueue[tuple[bytes, asyncio.Event]] = queue.SimpleQueue()
        for work in (self._run, self._watch):
            threading.Thread(target=work, daemon=True).start()

    async def write(self, frame: bytes) -> None:
        """Returns when the frame is in the pipe, which is back-pressure for the server."""
        written = asyncio.Event()
        self._frames.put((frame, written))
        await written.wait()

    def _run(self) -> None:
        try:
            while True:
                frame, written = self._frames.get()
                rest = memoryview(frame)
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
                tell(self._loop, written.set)
        except OSError:  # the client is gone
            tell(self._loop, self.is_unread.set)

    def _watch(self) -> None:
        """Notices also without a frame to write that the reader is gone, where the system tells (not on Windows)."""
        if not hasattr(select, "poll"):
            return
        watch = select.poll()
        watch.register(self._descriptor, 0)  # an error or a hang-up is told unasked
        if any(told & (select.POLLERR | select.POLLHUP) for _, told in watch.poll()):  # macOS cannot watch terminals
            tell(self._loop, self.is_unread.set)


class LineReader:
    """Reads lines of a pipe in a thread of its own; `lines` ends with None, and then `has_ended` is set."""

    def __init__(self, descriptor: int) -> None:
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.has_ended = asyncio.Event()
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            for line in read_lines(self._descriptor):
                tell(self._loop, self.lines.put_nowait, line)
        tell(self._loop, self.lines.put_nowait, None)
        tell(self._loop, self.has_ended.set)


async def serve(remote: Remote, transport: str) -> int:
    """Relays between standard input, standard output and the server until the client is gone; returns the exit code."""
    reader, writer = LineReader(0), FrameWriter(1)
    bridge = Bridge(remote, transport, writer.write)
    return await converse(bridge, reader.lines, reader.has_ended, writer.is_unread)


async def converse(
    bridge: Bridge, lines: asyncio.Queue[bytes | None], has_ended: asyncio.Event, is_unread: asyncio.Event
) -> int:
    """Relays until the client is gone, closes the bridge and returns the exit code.

    A client that ends its output before it was answered anything is a script, which waits for its answers; one that was
    in conversation is leaving, and what it asked last has a moment. Where nobody reads any more nothing is waited for.
    """

    async def relay() -> None:
        while (line := await lines.get()) is not None:
            await bridge.take(line)
        await bridge.wait_for_answers()

    relaying, ending, leaving = (asyncio.create_task(work) for work in (relay(), has_ended.wait(), is_unread.wait()))
    try:
        await asyncio.wait([relaying, ending, leaving], return_when=asyncio.FIRST_COMPLETED)
        timeout_s = LEAVING_TIMEOUT_S if bridge.has_answered else SCRIPT_TIMEOUT_S
        await asyncio.wait([relaying, leaving], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return 1 if relaying.done() and relaying.exception() else 0
    finally:
        for task in (relaying, ending, leaving):
            task.cancel()
        await bridge.aclose()


async def check(remote: Remote, transport: str, *, has_key: bool) -> int:
    """Opens a session, lists the tools, and tells in words what works; returns the exit code."""
    answers: asyncio.Queue[JsonObject] = asyncio.Queue()

    async def collect(line: bytes) -> None:
        if "id" in (message := json.loads(line)):
            await answers.put(message)

    async def call(method: str, params: JsonObject) -> JsonObject:
        await bridge.take(json.dumps({"jsonrpc": "2.0", "id": method, "method": method, "params": params}).encode())
        answer = await answers.get()
        if "error" in answer:
            raise Problem(answer["error"]["message"])
        result: JsonObject = answer["result"]
        return result

    async def ended() -> None:
        """What has answered ends by itself, unless its stream stays open."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(bridge.wait_for_answers(), CLOSE_TIMEOUT_S)

    bridge = Bridge(remote, transport, collect)
    client = {"name": "mcp-stdio-bridge", "version": "check"}
    try:
        hello = await call("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client})
        server = f"{hello['serverInfo']['name']} {hello['serverInfo']['version']}"
        print(f"URL    works: {one_line(server)}, {bridge.transport.name}, protocol {hello['protocolVersion']}")
        print(f"Key    {'accepted' if has_key else 'none given (GATEWAY_API_KEY is not set): you are a guest'}")
        await bridge.take(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        tools = (await call("tools/list", {}))["tools"]
        print(f"Tools  {len(tools)}: {one_line(', '.join(tool['name'] for tool in tools))}")
        await ended()
    except (Problem, KeyError, TypeError) as error:
        told = one_line(str(error)) if isinstance(error, Problem) else "the answer is not that of an MCP server"
        print(f"Failed: {told}")
        await ended()
        return 1
    finally:
        await bridge.aclose()
    return 0


async def run(options: argparse.Namespace, key: str, egress: Egress) -> int:
    """Opens the HTTP client and does what the options ask for; returns the exit code."""
    log = Log(is_verbose=options.debug)
    if task := asyncio.current_task():
        end_on_signals(task)
    # an exception's text may quote a frame, so of what nobody caught only the type is logged
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: log(f"unexpected: {type(context.get('exception')).__name__}")
    )
    if egress.warning:
        log(egress.warning)
    elif key and is_in_the_clear(options.url):
        log("the key travels unencrypted: use https where others can listen")
    headers = {"user-agent": "mcp-stdio-bridge"} | ({"authorization": f"Bearer {key}"} if key else {})
    timeout = httpx2.Timeout(connect=CONNECT_TIMEOUT_S, read=ANSWER_TIMEOUT_S, write=WRITE_TIMEOUT_S, pool=None)
    limits = httpx2.Limits(keepalive_expiry=KEEPALIVE_EXPIRY_S)
    async with httpx2.AsyncClient(
        headers=headers, timeout=timeout, limits=limits, verify=egress.tls, proxy=egress.proxy, trust_env=False
    ) as client:
        remote = Remote(client, options.url, log, egress.way)
        if options.check:
            return await check(remote, options.transport, has_key=bool(key))
        return await serve(remote, options.transport)


def end_on_signals(task: asyncio.Task[Any]) -> None:
    """Has the signals that end a process cancel the task (SIGINT does), so that the server hears of the end."""
    for name in ("SIGTERM", "SIGHUP"):
        with contextlib.suppress(AttributeError, NotImplementedError):  # Windows has no such signals
            asyncio.get_running_loop().add_signal_handler(getattr(signal, name), task.cancel)


class Egress(NamedTuple):
    """How requests reach the server: the proxy (and the setting that names it), and whom TLS trusts."""

    tls: ssl.SSLContext
    proxy: httpx2.Proxy | None = None
    named_in: str = ""
    is_in_the_clear: bool = False

    @property
    def way(self) -> str:
        return f" (through the proxy that {self.named_in} names)" if self.proxy else ""

    @property
    def warning(self) -> str:
        """What is said of plain HTTP through a proxy."""
        if not (self.proxy and self.is_in_the_clear):
            return ""
        return (
            f"the proxy that {self.named_in} names can read the key and all else: use https, or name the server's host "
            "in NO_PROXY"
        )


def read_egress(url: str) -> Egress:
    """How the environment has requests to this URL sent; raises Unusable. What is for other URLs is not looked at."""
    proxy_url, named_in = choose_proxy(url)
    uses_tls = url.lower().startswith("https:") or proxy_url.startswith("https:")
    tls = read_tls() if uses_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not proxy_url:
        return Egress(tls)
    try:
        proxy = httpx2.Proxy(proxy_url, ssl_context=tls if proxy_url.startswith("https:") else None)
    except (httpx2.InvalidURL, ValueError):
        raise Unusable(f"{named_in} is not the URL of a proxy") from None
    return Egress(tls, proxy, named_in, is_in_the_clear(url))


def choose_proxy(url: str) -> tuple[str, str]:
    """The proxy for a URL and the setting that names it; two empty texts for none. Raises Unusable."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxies = getproxies()
    scheme = next((name for name in (parts.scheme, "all") if cleaned(proxies.get(name, ""))), "")
    if not scheme or is_loopback(host) or proxy_bypass(host):
        return "", ""
    if is_exempt(host, parts.port or PORTS[parts.scheme], cleaned(proxies.get("no", ""))):
        return "", ""
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper(), *os.environ)
    found = (name for name in names if name.lower() == f"{scheme}_proxy" and os.environ.get(name))
    named_in = next(found, "the system's settings")
    return checked_proxy(cleaned(proxies[scheme]), named_in), named_in


def checked_proxy(value: str, named_in: str) -> str:
    """The URL of a proxy; raises Unusable for what is none, and may hold a password."""
    url = value if "://" in value else f"http://{value}"
    url = re.sub("(?i)^socks://", "socks5://", url)  # GNOME's spelling
    try:
        parts = urlsplit(url)
        is_url = bool(parts.hostname) and parts.port != 0 and parts.path in ("", "/")
    except ValueError:
        is_url = False
    if not is_url or parts.query or parts.fragment or re.search(r"[\s\x00-\x1f]", url):
        raise Unusable(
            f"{named_in} is not the URL of a proxy, http://host:port (in a password, signs such as / and # are written "
            "as %2F and %23)"
        )
    if parts.scheme not in ("http", "https", "socks5", "socks5h"):
        raise Unusable(f"{named_in} names a proxy of a kind that is not supported: http, https and socks5 are")
    if parts.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise Unusable(f"{named_in} names a SOCKS proxy, for which socksio is missing: run `pip install socksio`")
    return parts._replace(path="").geturl()


def is_exempt(host: str, port: int, rules: str) -> bool:
    """Whether NO_PROXY names a host: by its name or a domain of it, address, network or with its port."""
    return any(_exempts(rule.lower(), host.rstrip("."), port) for rule in re.split(r"[\s,;]+", rules) if rule)


def _exempts(rule: str, host: str, port: int) -> bool:
    if rule == "*":
        return True
    name, rule_port = rule.rpartition("://")[2], ""
    if name.startswith("["):
        name, _, rest = name[1:].partition("]")
        name, rule_port = (name + rest, "") if rest.startswith("/") else (name, rest.removeprefix(":"))
    elif name.count(":") == 1:
        name, _, rule_port = name.partition(":")
    if rule_port and rule_port != str(port):
        return False
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
    name = name.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine; also in the short spellings of IPv4, such as 127.1."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        with contextlib.suppress(OSError):
            address = ipaddress.IPv4Address(socket.inet_aton(name))
            return address.is_loopback or address.is_unspecified
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def read_tls() -> ssl.SSLContext:
    """Trusts whom SSL_CERT_FILE and SSL_CERT_DIR name, else whom the system trusts; raises Unusable."""
    file, folder = (cleaned(os.environ.get(name, "")) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    if file and not os.path.isfile(file):
        raise Unusable("SSL_CERT_FILE names a file that is not there")
    if folder and not os.path.isdir(folder):
        raise Unusable("SSL_CERT_DIR names a folder that is not there")
    try:
        if file or folder:
            return ssl.create_default_context(cafile=file or None, capath=folder or None)
        return httpx2.create_ssl_context(trust_env=False)
    except ssl.SSLError:
        raise Unusable("SSL_CERT_FILE names a file that holds no certificates") from None
    except OSError as error:
        is_key_log = error.filename == os.environ.get("SSLKEYLOGFILE", "")
        name, done = ("SSLKEYLOGFILE", "written") if is_key_log else ("SSL_CERT_FILE", "read")
        raise Unusable(f"{name} names a file that cannot be {done}") from None


def is_in_the_clear(url: str) -> bool:
    """Whether requests leave this machine without TLS."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def cleaned(value: str) -> str:
    """A setting as it was meant: without the white space, line ends and quotes that configuration files leave on it."""
    value = value.strip("\ufeff \t\r\n\v\f\xa0")
    for first, last in QUOTES:
        if len(value) > 1 and value.startswith(first) and value.endswith(last):
            return cleaned(value[1:-1])
    return value


def read_key() -> str:
    """The key of GATEWAY_API_KEY, also where it was pasted with what stands before it in a header; raises Unusable."""
    key = cleaned(os.environ.get("GATEWAY_API_KEY", ""))
    key = cleaned(re.sub(r"(?i)^(?:authorization:\s*)?bearer\s+", "", key))
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise Unusable("GATEWAY_API_KEY holds characters that no key has")
    return key


def reason_against_url(url: str) -> str | None:
    """Why a URL is not used (without repeating it, since it may hold a secret), or None."""
    try:
        parts = urlsplit(url)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_http = False
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        return "the URL holds a space or a line end"
    if not is_http:
        return "give the URL of the MCP server, http://... or https://..., as the argument or in GATEWAY_URL"
    secret_names = {"key", "token", "secret", "password", "auth", "authorization", "api_key", "apikey", "access_token"}
    has_secret = any(name.lower().replace("-", "_") in secret_names for name, _ in parse_qsl(parts.query))
    if parts.username or parts.password or has_secret or re.search(r"gw_(live|test)_", url):
        return "the URL holds a key, which logs would show: put it into GATEWAY_API_KEY"
    return None


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """The command line; exits with status 2 and one line that repeats no argument, since it may be a key."""
    parser = argparse.ArgumentParser(
        prog="mcp_stdio_bridge",
        description="Connects an MCP client that speaks stdio to an MCP server behind a URL.",
        epilog="The API key comes from the environment variable GATEWAY_API_KEY; without it you are a guest.",
        allow_abbrev=False,
    )
    parser.add_argument("url", nargs="?", default=os.environ.get("GATEWAY_URL", ""), help="default: $GATEWAY_URL")
    parser.add_argument("--transport", choices=("auto", "http", "sse"), default="auto", help="default: %(default)s")
    parser.add_argument("--debug", action="store_true", help="log method, id, size and time of each frame")
    parser.add_argument("--check", action="store_true", help="tell whether URL, key and tools work, and end")
    options, rest = parser.parse_known_args(argv)
    if rest:
        refuse("one URL and the options of --help are all it takes; a key comes only from GATEWAY_API_KEY")
    options.url = cleaned(options.url)
    if reason := reason_against_url(options.url):
        refuse(reason)
    return options


def refuse(reason: str) -> NoReturn:
    """Ends the program with status 2 and one line on standard error."""
    print(f"mcp_stdio_bridge: {reason}", file=sys.stderr)
    raise SystemExit(2)


def main(argv: list[str] | None = None) -> int:
    """Runs the bridge and returns its exit code; raises SystemExit(2) when it cannot start."""
    options = parse_options(argv)
    if httpx2 is None:
        refuse("httpx2 is missing: run `pip install httpx2`, or start the script with `uv run mcp_stdio_bridge.py URL`")
    try:
        key, egress = read_key(), read_egress(options.url)
    except Unusable as unusable:
        refuse(str(unusable))
    try:
        return asyncio.run(run(options, key, egress))
    except KeyboardInterrupt:
        return 130
    except asyncio.CancelledError:
        return 143


if __name__ == "__main__":
    raise SystemExit(main())
