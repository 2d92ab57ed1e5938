"""A provider as a backend: others' servers, of which nothing is asked but what is billed. How it is, its answers tell.

It rests where it said that it is full, or asked too often, for as long as it said; a fault of the operator's has all of
it rest for a while. Knows no row and no dialect.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from mcp_gateway.core.blame import OperatorFault
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.proxy_paths import ProxyPaths
from mcp_gateway.core.surfaces.surface import Headers
from mcp_gateway.core.upstream.backend import Backend, BackendResponse, Status, failure
from mcp_gateway.core.upstream.served_models import ALL_MODELS, Rest
from mcp_gateway.core.upstream.transport import BodyInPieces, Transport, UpstreamError


class Proxy(NamedTuple):
    """Where a provider is asked by its own paths, by which of them, and what it is sent of the operator's."""

    transport: Transport
    paths: ProxyPaths
    own_headers: Headers
    passed_headers: frozenset[bytes]
    """Names of a caller's headers that it is sent."""
    refusal: Callable[[int, bytes, bytes | None], GatewayError]
    """What a caller is told of a refusal: of its status, the beginning of its body and its Retry-After."""


class Passed(NamedTuple):
    """What is passed on to one of them: a method, a path with its query, and what of its caller's may be seen."""

    method: str
    path: str
    headers: Headers
    body: bytes | BodyInPieces


@dataclass(slots=True, eq=False)
class Provider(Backend):
    """Nothing of a caller's reaches it but a body and the `passed_headers` that this goes with."""

    is_asked_how_it_is: ClassVar[bool] = False
    paths: ClassVar[frozenset[str] | None] = None
    passed_headers: frozenset[bytes] | None = frozenset()
    fault: str = ""
    is_probed: bool = True
    proxy: Proxy | None = field(default=None, repr=False)
    """None where it may not be asked so."""

    def can_take(self, backend_model: str) -> bool:
        models = self.models
        return backend_model in models.listings and models.rest_of(backend_model, self.work.now_s()) is None

    def is_sound_for(self, backend_model: str) -> bool:
        return self.breaker.lets_in

    def serves(self, backend_model: str) -> bool:
        return self.breaker.is_closed and self.can_take(backend_model)

    @property
    def status(self) -> Status:
        return "failing" if self.reason else "up"

    @property
    def reason(self) -> str | None:
        """Why it is not simply up; a model that rests is none."""
        if self.models.rest_of(ALL_MODELS, self.work.now_s()) is not None:
            return "it refuses what only its account's owner can put right"
        return self.breaker.reason or None

    async def reach(self) -> None:
        """Have a connection for what is passed on at once. Raises GatewayError where there is none."""
        assert self.proxy is not None
        try:
            await self.proxy.transport.reach()
        except UpstreamError as error:
            raise failure(error) from error

    async def pass_on(self, passed: Passed) -> BackendResponse:
        """Send it what a caller asks by its own path, as a stream.

        Raises GatewayError where no head of an answer comes, and whatever the pieces of a body raise.
        """
        assert self.proxy is not None
        method, path, headers, body = passed
        own = dict(self.proxy.own_headers)
        sent = [*(header for header in headers if header[0] not in own), *self.proxy.own_headers]
        try:
            if isinstance(body, bytes):
                return await self.proxy.transport.request(method, path, sent, body, is_stream=True)
            return await self.proxy.transport.upload(method, path, sent, body)
        except UpstreamError as error:
            raise failure(error) from error

    def lost(self, fault: str) -> None:
        """One connection that failed says nothing of the next."""

    def note_refusal(self, error: GatewayError, backend_model: str) -> None:
        if error.code not in ("backend_busy", "model_unavailable"):
            return
        if isinstance(error, OperatorFault) and error.fault == "access":
            return  # which what a caller wrote may be the reason for: others are not to suffer from it
        is_for_all = isinstance(error, OperatorFault) and error.fault != "model"
        until_s = self.work.now_s() + (error.retry_after_s or 1)
        self.models.rests[ALL_MODELS if is_for_all else backend_model] = Rest(until_s, error.code)
