"""Serves the app under any ASGI server, in process too: brings along what our own connections tell of a client.

That a client has left is learned from `receive`, by a task that watches for it while a chat is answered. Our own
connections know it by themselves, so that the server passes this by.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_gateway.core.context import CLIENT, SENT, RequestContext
from mcp_gateway.core.errors import GatewayError


class AnyServer:
    """An ordinary ASGI app around `app`, which needs a Client and the headers by name in its scope."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    @property
    def for_our_connections(self) -> ASGIApp:
        """The app itself."""
        return self._app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served here")  # which is how ASGI says so
        client = WatchedClient(receive, send)
        try:
            await self._app(_told(scope, client), client.receive, client.send)
        except asyncio.CancelledError:
            if not client.has_ended_alone():
                raise
        finally:
            client.forget()


def _told(scope: Scope, client: "WatchedClient") -> Scope:
    """A scope as our connections make it: where the app is mounted is no part of its paths."""
    headers = [(name, value) for name, value in scope["headers"]]
    root, path = scope.get("root_path", ""), scope["path"]
    if root and path.startswith(f"{root}/"):
        path = path.removeprefix(root)
    ours = {"path": path, "root_path": "", "headers": headers, CLIENT: client, SENT: dict(reversed(headers))}
    return {"client": None, **scope, **ours}


class WatchedClient:
    """The Client of a request; its `receive` and `send` stand for the server's and notice what passes."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.context: RequestContext | None = None
        self.is_whole = False
        self.refusal: GatewayError | None = None  # a server that cannot read on says that the client has left
        self._receive = receive
        self._send = send
        self._task = asyncio.current_task()
        self._cancelled_before = self._task.cancelling() if self._task is not None else 0
        self._watch: asyncio.Task[None] | None = None
        self.is_gone = self._has_cancelled = False

    @property
    def is_cancelled_on_departure(self) -> bool:
        return self._watch is not None

    @is_cancelled_on_departure.setter
    def is_cancelled_on_departure(self, is_wanted: bool) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch = asyncio.create_task(self._await_departure()) if is_wanted else None

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.is_gone = True
        elif not message.get("more_body"):
            self.is_whole = True
        return message

    async def send(self, message: Message) -> None:
        """Nothing is sent to a client that has left; servers may say by an OSError that it has."""
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.is_cancelled_on_departure = False
        if self.is_gone:
            return
        try:
            await self._send(message)
        except OSError:
            self._leave()
            await asyncio.sleep(0)  # where the cancellation ends this very task, and not its server later

    def has_ended_alone(self) -> bool:
        """Whether a cancellation came from here, and from nobody else as well."""
        return self._has_cancelled and self._task is not None and self._task.cancelling() == self._cancelled_before + 1

    def forget(self) -> None:
        """The request is answered; whoever runs the task goes on as if nothing had been cancelled."""
        self.is_cancelled_on_departure = False
        if self._has_cancelled and self._task is not None:
            self._task.uncancel()

    async def _await_departure(self) -> None:
        while not self.is_gone:
            await self.receive()
        self._leave()

    def _leave(self) -> None:
        self.is_gone = True
        if self.is_cancelled_on_departure and not self._has_cancelled and self._task is not None:
            self._has_cancelled = self._task.cancel()
