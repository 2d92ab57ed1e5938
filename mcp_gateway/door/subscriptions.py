"""Who hears of changes: sessions that subscribed (older revisions), and `subscriptions/listen` streams (2026-07-28).

An event only says that something changed, so a client that reads slowly misses repetitions and nothing else.
Knows no resource.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

from mcp.server import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import (
    SUBSCRIPTION_ID_META_KEY,
    ResourceUpdated,
    ServerEvent,
    event_matches,
    event_to_notification,
)
from mcp.types import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    EmptyResult,
    SubscribeRequestParams,
    SubscriptionFilter,
    SubscriptionsAcknowledgedNotification,
    SubscriptionsAcknowledgedNotificationParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)

from mcp_gateway.core.context import RequestContext
from mcp_gateway.door.jsonrpc import notification_payload
from mcp_gateway.door.sessions import Caps, Owner, Session, owner_of

_MAX_URIS = 64
_MAX_URI_CHARS = 512
_TOO_MANY = -32000

Context = ServerRequestContext[Any, Any]


class Listener:
    """One open listen stream: what it wants, and what it has not been told yet."""

    def __init__(self, owner: Owner, wanted: SubscriptionFilter) -> None:
        self.owner = owner
        self.wanted = wanted
        self._uris = frozenset(wanted.resource_subscriptions or ())
        self._untold: dict[ServerEvent, None] = {}
        self._is_closed = False
        self._has_news = asyncio.Event()

    def note(self, event: ServerEvent) -> None:
        if event_matches(self.wanted, self._uris, event):
            self._untold[event] = None
            self._has_news.set()

    def close(self) -> None:
        self._is_closed = True
        self._has_news.set()

    async def next_events(self) -> list[ServerEvent]:
        """What is new, once something is; nothing when the stream is to end."""
        if not self._is_closed:
            await self._has_news.wait()
        self._has_news.clear()
        events, self._untold = list(self._untold), {}
        return events


class Subscriptions:
    """The SDK's handlers for subscribing, in both eras; `publish` tells whoever wants to know."""

    def __init__(self, caps: Caps) -> None:
        self._caps = caps
        self._listeners: set[Listener] = set()
        self._by_owner: Counter[Owner] = Counter()

    def __len__(self) -> int:
        return len(self._listeners)

    async def subscribe(self, ctx: Context, params: SubscribeRequestParams) -> EmptyResult:
        session = _session(ctx)
        _check_uris([*session.subscribed_uris, params.uri])
        session.subscribed_uris.add(params.uri)
        return EmptyResult()

    async def unsubscribe(self, ctx: Context, params: UnsubscribeRequestParams) -> EmptyResult:
        _session(ctx).subscribed_uris.discard(params.uri)
        return EmptyResult()

    async def listen(self, ctx: Context, params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        """Serve one listen stream until its client leaves or it is closed."""
        meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}
        listener = self._open(ctx, params.notifications)
        acknowledged = SubscriptionsAcknowledgedNotificationParams(notifications=listener.wanted, _meta=meta)
        try:
            await ctx.session.send_notification(
                SubscriptionsAcknowledgedNotification(params=acknowledged), related_request_id=ctx.request_id
            )
            while events := await listener.next_events():
                for event in events:
                    notification = event_to_notification(event, meta)
                    await ctx.session.send_notification(notification, related_request_id=ctx.request_id)
        finally:
            self._forget(listener)
        return SubscriptionsListenResult(_meta=meta)

    def publish(self, sessions: Iterable[Session], events: Iterable[ServerEvent]) -> None:
        """Tell open listen streams, and those of the sessions that listen."""
        payloads = {event: _payload(event) for event in events}
        for event in payloads:
            for listener in self._listeners:
                listener.note(event)
        for session in (session for session in sessions if session.stream is not None):
            for event, payload in payloads.items():
                if not isinstance(event, ResourceUpdated) or event.uri in session.subscribed_uris:
                    session.spawn(session.write(payload))

    def close(self) -> None:
        """End all listen streams, each with its result."""
        for listener in self._listeners:
            listener.close()

    def close_key(self, key_id: str) -> None:
        for listener in self._listeners:
            if listener.owner[1] == key_id:
                listener.close()

    def _open(self, ctx: Context, asked: SubscriptionFilter) -> Listener:
        caller = cast(RequestContext, ctx.request).caller
        assert caller is not None
        owner = owner_of(caller)
        _check_uris(asked.resource_subscriptions or [])
        if self._by_owner[owner] >= self._caps.of(owner) or len(self._listeners) >= self._caps.total:
            raise MCPError(_TOO_MANY, "Too many subscriptions are open.")
        listener = Listener(owner, _honored(asked))
        self._listeners.add(listener)
        self._by_owner[owner] += 1
        return listener

    def _forget(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        self._by_owner[listener.owner] -= 1
        if not self._by_owner[listener.owner]:
            del self._by_owner[listener.owner]


def _honored(asked: SubscriptionFilter) -> SubscriptionFilter:
    """What was asked for, without what was asked not to be told."""
    wanted = {
        name: value for name, value in asked.model_dump(include=set(SubscriptionFilter.model_fields)).items() if value
    }
    return SubscriptionFilter(**wanted)


def _session(ctx: Context) -> Session:
    if not isinstance(ctx.lifespan_context, Session):
        raise MCPError(INVALID_REQUEST, "Only a session can subscribe: initialize one.")
    return ctx.lifespan_context


def _check_uris(uris: list[str]) -> None:
    if len(uris) > _MAX_URIS or any(len(uri) > _MAX_URI_CHARS for uri in uris):
        message = f"Subscribe to at most {_MAX_URIS} resources, by URIs of at most {_MAX_URI_CHARS} characters."
        raise MCPError(INVALID_PARAMS, message)


def _payload(event: ServerEvent) -> bytes:
    notification = event_to_notification(event, {}).model_dump(by_alias=True, mode="json", exclude_none=True)
    params = {name: value for name, value in (notification.get("params") or {}).items() if name != "_meta"}
    return notification_payload(notification["method"], params)
