"""What a backend speaks: values in, values out. A dialect has no connection and no state.

Each surface that a dialect serves is a file `<surface>_<dialect>.py` with a `Translation`; no file, not served.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from mcp_gateway.core.catalog import Offer
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.record import EndedBy, SurfaceName
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.surface import Ask, Body, Collecting, Failure, Headers, Reader, Surface, Terms, Whole
from mcp_gateway.core.surfaces.tokens import QuestionName
from mcp_gateway.core.surfaces.usage import Usage

_MOST_TARGETS = 4096
"""More than a gateway has models and surfaces in use; names that are published no more are forgotten with the rest."""


class Counting(NamedTuple):
    """What asks a backend to count a prompt: a body, where it is sent, and headers that belong to it."""

    path: str
    body: bytes
    headers: Headers = ()


class Translation(Protocol):
    """One surface in one dialect: what is sent of an ask to `path`, and how its answers are read."""

    path: str
    tells_running_usage: bool
    """Whether a stream tells its usage before its end; of one that does not, what came is estimated."""

    def sift(self, body: dict[str, Any], /) -> tuple[str, ...]:
        """Leave of the body only what may be sent; the names that were removed.

        Raises GatewayError for what may not be left out in silence.
        """

    def body(self, ask: Ask, terms: Terms, backend_model: str, account_id: str, *, is_stream: bool) -> bytes:
        """The body to send, within these terms."""

    def counting(self, ask: Ask, backend_model: str) -> Counting | None:
        """What asks a backend to count the prompt; None where nothing does."""

    def can_collect(self, ask: Ask) -> bool:
        """Whether a stream tells all that the answer in one piece would."""

    def can_be_cut(self, ask: Ask) -> bool:
        """Whether each frame of a stream tells a running count, and nothing is made unseen: so it may end at any.

        A stream that can be cut can be collected, too.
        """

    def cut(self, first_frame: bytes, usage: Usage | None, ended_by: EndedBy) -> bytes:
        """The frames that end a stream that began so, as where its limit is reached; None where it told no usage."""

    def reader(self, ask: Ask, public_model: str, bounds: UsageBounds) -> Reader:
        """Reads one answer's stream for a client, which is told no usage but within the bounds."""

    def collecting(self, ask: Ask, public_model: str, max_bytes: int) -> Collecting:
        """Puts one answer's stream together."""

    async def read(self, body: Body, ask: Ask, /) -> Whole:
        """Read an answer in one piece to an ask. Raises GatewayError `backend_error` for what is none."""

    async def with_usage(self, body: Body, usage: Usage, /) -> Body:
        """The answer with this usage for whatever it tells of it. Raises GatewayError `backend_error`."""

    async def text_bytes(self, body: Body, /) -> int:
        """How many bytes the answer's texts have."""


class Inquiry(Protocol):
    """A question about tokens in one dialect: what is sent of it to `path`, and how its answer is read."""

    path: str

    def sift(self, body: dict[str, Any], /) -> tuple[str, ...]:
        """Leave of the body only what may be sent; the names that were removed.

        Raises GatewayError for what may not be left out in silence.
        """

    async def check(self, answer: Body, /) -> None:
        """Raise GatewayError `backend_error` for what is no answer to it."""


class Dialect(Protocol):
    """What the servers of one kind speak."""

    name: str
    rewrites: bool
    """Whether what is sent has another form than what was asked, of which it is then written again for each attempt."""
    headers_of: Callable[[Ask], Headers] | None
    """What a sifted ask is sent with, beside the gateway's own headers; None where that is never anything."""
    translations: Mapping[SurfaceName, Translation]
    inquiries: Mapping[QuestionName, Inquiry]

    def error(
        self,
        failure: Failure,
        backend_model: str,
        public_model: str,
        retry_after: bytes | None = None,
        prompt_field: str = "messages",
    ) -> GatewayError:
        """The gateway's error for what a backend told."""

    def failure(self, status: int, body: bytes) -> Failure:
        """What a refusal's body, or its beginning, tells, in whatever shape."""

    def window_told(self, refusal: GatewayError) -> int | None:
        """The window that a refusal of a prompt names."""

    def prompt_told(self, refusal: GatewayError) -> int | None:
        """The prompt's tokens that such a refusal names."""

    def adapts_to(self, refusal: GatewayError, target: "Target", sent: bytes) -> bool:
        """Whether a refusal of what was sent was for something of the gateway's own, which is left out from now on."""

    def count_told(self, answer: Body) -> int | None:
        """The prompt's tokens that were counted."""

    def request_named(self, beginning: Body) -> bytes | None:
        """The id of ours that an answer bears; None for others."""


class Target(NamedTuple):
    """A model that is asked, as its source knows it and as the caller does, and how backends there are spoken to.

    `prompt_field` is what the surface calls a prompt.
    """

    dialect: Dialect
    translation: Translation
    backend_model: str
    public_model: str
    prompt_field: str

    def error(self, failure: Failure, retry_after: bytes | None = None) -> GatewayError:
        """The gateway's error for what a backend told."""
        return self.dialect.error(failure, self.backend_model, self.public_model, retry_after, self.prompt_field)


class Targets:
    """The target of each offer by the surface and the name that it is asked by; made once, while there are not many.

    As one configuration has them: a request keeps those that it began with, as it keeps the backends it was ranked by.
    """

    def __init__(self, dialects: Mapping[str, Dialect]) -> None:
        self._dialects = dict(dialects)
        self._made: dict[tuple[SurfaceName, str, str, str], Target] = {}

    def but(self, dialects: Mapping[str, Dialect]) -> "Targets":
        """With these, too, in place of those of the same name; the others stay for models that a request has found."""
        return Targets({**self._dialects, **dialects})

    def dialect_of(self, offer: Offer) -> Dialect:
        return self._dialects[offer.source]

    def inquiry(self, offer: Offer, name: QuestionName) -> Inquiry:
        """Raises GatewayError `unsupported_endpoint` where nothing there answers it."""
        found = self._dialects[offer.source].inquiries.get(name)
        if found is None:
            raise _unserved()
        return found

    def translation(self, offer: Offer, surface: Surface) -> Translation:
        """Raises GatewayError `unsupported_endpoint` where the surface is not served there."""
        found = self._dialects[offer.source].translations.get(surface.name)
        if found is None:
            raise _unserved()
        return found

    def serves(self, offer: Offer, surface: Surface) -> bool:
        return self._dialects[offer.source].translations.get(surface.name) is not None

    def at(self, offer: Offer, surface: Surface, public_model: str) -> Target:
        """Raises GatewayError `unsupported_endpoint` where the surface is not served there."""
        key = surface.name, offer.source, offer.name, public_model
        return self._made.get(key) or self._make(key, offer, surface)

    def _make(self, key: tuple[SurfaceName, str, str, str], offer: Offer, surface: Surface) -> Target:
        dialect, translation = self._dialects[offer.source], self.translation(offer, surface)
        if len(self._made) >= _MOST_TARGETS:
            self._made.clear()
        target = Target(dialect, translation, *key[2:], surface.prompt_field)
        return self._made.setdefault(key, target)


def _unserved() -> GatewayError:
    return GatewayError("unsupported_endpoint", "Who serves this model does not have this endpoint.", param="model")
