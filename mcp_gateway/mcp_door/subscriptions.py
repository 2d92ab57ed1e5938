"""Who hears of changes: sessions that subscribed (older revisions), and `subscriptions/listen` streams (2026-07-28).

An event only says that something changed, so a client that reads slowly misses repetitions and nothing else.
Knows no resource.
"""

import asyncio
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
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

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import TABLE
from mcp_gateway.mcp_door.calls import caller_of
from mcp_gateway.mcp_door.faults import no_resource
from mcp_gateway.mcp_door.jsonrpc import REFUSED, notification_payload
from mcp_gateway.mcp_door.sessions import Session
from mcp_gateway.mcp_door.shares import Caps, FairShares, Full, Owner, Tally, owner_of

_MAX_URIS = 64
_MAX_URI_CHARS = 512
_URIS_PER_SHARE = 4
"""An owner, and all of them together, may hear of so many resources for each session that they may have."""
_RETRY = {"retry_after_s": TABLE["overloaded"].retry_after_s}

Context = ServerRequestContext[Any, Any]


class Listener:
    """One open listen stream: what it wants, and what it has not been told yet.

    `uris` are those that it hears of, as its client writes them, with the one that each resource is known by.
    """

    is_busy = True

    def __init__(self, caller: Caller, address: str | None, wanted: SubscriptionFilter, uris: dict[str, str]) -> None:
        self.owner = owner_of(caller)
        self.validity = caller.validity
        self.address = address
        self.wanted = wanted
        self.uris = uris
        self._untold: dict[ServerEvent, None] = {}
        self._is_closed = False
        self._has_news = asyncio.Event()

    def note(self, event: ServerEvent) -> None:
        """Keep what is new, if it is wanted; of resources only those come here that are."""
        if isinstance(event, ResourceUpdated) or event_matches(self.wanted, frozenset(), event):
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
    """The SDK's handlers for subscribing, in both eras; `publish` tells whoever wants to know.

    `address_of` gives the address whose keys have a share together, where they do; `canonical_uri` the URI by which
    changes of a resource are published, None where there is none.
    """

    def __init__(
        self,
        caps: Caps,
        address_of: Callable[[RequestContext], str | None] = lambda _: None,
        canonical_uri: Callable[[str], str | None] = lambda uri: uri,
    ) -> None:
        self._address_of = address_of
        self._canonical_uri = canonical_uri
        self._listeners: FairShares[Listener] = FairShares(caps, self._end)
        self._open: set[Listener] = set()
        self._uris = Tally(caps.times(_URIS_PER_SHARE))

    def __len__(self) -> int:
        return len(self._open)

    @property
    def has_any(self) -> bool:
        """Whether anybody wants to know about anything."""
        return bool(self._open or self._uris.total)

    async def subscribe(self, ctx: Context, params: SubscribeRequestParams) -> EmptyResult:
        self.subscribe_session(session_of(ctx), params.uri, ctx.protocol_version)
        return EmptyResult()

    def subscribe_session(self, session: Session, uri: str, version: str) -> None:
        """Raises MCPError where it cannot hear of that."""
        if uri in session.subscribed_uris:
            return
        _check_uris([*session.subscribed_uris, uri])
        if (canonical_uri := self._canonical_uri(uri)) is None:
            raise no_resource(uri, version)
        if not session.is_ended:
            self._take_uris(session.owner, 1)
            session.subscribed_uris[uri] = canonical_uri

    async def unsubscribe(self, ctx: Context, params: UnsubscribeRequestParams) -> EmptyResult:
        self.unsubscribe_session(session_of(ctx), params.uri)
        return EmptyResult()

    def unsubscribe_session(self, session: Session, uri: str) -> None:
        if uri in session.subscribed_uris:
            del session.subscribed_uris[uri]
            self._uris.give_back(session.owner)

    def forget(self, session: Session) -> None:
        """A session has ended."""
        self._uris.give_back(session.owner, len(session.subscribed_uris))
        session.subscribed_uris.clear()

    async def listen(self, ctx: Context, params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        """Serve one listen stream until its client leaves or it is closed."""
        meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}
        listener = self._begin(ctx, params.notifications)
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
            self._end(listener)
        return SubscriptionsListenResult(_meta=meta)

    def publish(self, sessions: Iterable[Session], events: Collection[ServerEvent], key_id: str | None = None) -> None:
        """Tell open listen streams, and those of the sessions that listen, each by the URIs that its client wrote.

        With `key_id` the listen streams of that key alone.
        """
        updated = {event.uri for event in events if isinstance(event, ResourceUpdated)}
        others = [event for event in events if not isinstance(event, ResourceUpdated)]
        for listener in self._open:
            if key_id is not None and listener.owner[1] != key_id:
                continue
            for event in _told(listener.uris, updated, others):
                listener.note(event)
        payload_of = functools.cache(_payload)
        for session in (session for session in sessions if session.stream is not None):
            for event in _told(session.subscribed_uris, updated, others):
                session.mention(payload_of(event))

    def close(self) -> None:
        """End all listen streams, each with its result."""
        for listener in self._open:
            listener.close()

    def close_key(self, key_id: str) -> None:
        for listener in self._open:
            if listener.owner[1] == key_id:
                listener.close()

    def close_secret(self, key_id: str) -> None:
        """Those of a key that were opened with a secret which is not valid any more."""
        for listener in self._open:
            if listener.owner[1] == key_id and listener.validity.ended_by is not None:
                listener.close()

    def _begin(self, ctx: Context, asked: SubscriptionFilter) -> Listener:
        context = cast(RequestContext, ctx.request)
        _check_uris(asked.resource_subscriptions or [])
        found = ((uri, self._canonical_uri(uri)) for uri in asked.resource_subscriptions or ())
        uris = {uri: canonical_uri for uri, canonical_uri in found if canonical_uri is not None}
        wanted = _honored(asked.model_copy(update={"resource_subscriptions": list(uris)}))
        listener = Listener(caller_of(context), self._address_of(context), wanted, uris)
        self._take_uris(listener.owner, len(listener.uris))
        try:
            self._listeners.add(listener)
        except Full:
            self._uris.give_back(listener.owner, len(listener.uris))
            raise MCPError(REFUSED, "Too many subscriptions are open.", _RETRY) from None
        self._open.add(listener)
        return listener

    def _end(self, listener: Listener) -> None:
        """The listener's place is free, its stream ends with its result."""
        if listener in self._open:
            self._open.remove(listener)
            self._listeners.discard(listener)
            self._uris.give_back(listener.owner, len(listener.uris))
        listener.close()

    def _take_uris(self, owner: Owner, count: int) -> None:
        try:
            self._uris.take(owner, count)
        except Full:
            raise MCPError(REFUSED, "Too many resources are subscribed to.", _RETRY) from None


def _told(uris: Mapping[str, str], updated: set[str], others: Iterable[ServerEvent]) -> Iterator[ServerEvent]:
    """Of what has changed, what one hears that wants to know of `uris`."""
    yield from others
    yield from (ResourceUpdated(written) for written, uri in uris.items() if uri in updated)


def _honored(asked: SubscriptionFilter) -> SubscriptionFilter:
    """What was asked for, without what was asked not to be told."""
    wanted = {
        name: value for name, value in asked.model_dump(include=set(SubscriptionFilter.model_fields)).items() if value
    }
    return SubscriptionFilter(**wanted)


def session_of(ctx: Context) -> Session:
    """The session that a message came in. Raises MCPError where it came in none."""
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
