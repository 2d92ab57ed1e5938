"""What a client speaks: a request as its surface read it, what it may spend, and how its answer passes.

Knows no backend. What a backend is sent of a request, and what it means by its answers, the dialects say.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from mcp_gateway.core.config import Task
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import parse_exactly
from mcp_gateway.core.record import SurfaceName
from mcp_gateway.core.sent_images import RemoteImage, SentImage
from mcp_gateway.core.surfaces.usage import Usage
from mcp_gateway.core.surfaces.wanted_route import WantedRoute
from mcp_gateway.core.surfaces.wanted_routing import WantedRouting
from mcp_gateway.core.surfaces.wanted_tools import WantedTools
from mcp_gateway.core.token_ids import PlacedIds, TokenIds

Body = bytes | bytearray
Headers = Sequence[tuple[bytes, bytes]]
BYTES_PER_TOKEN = 3
"""For what has to be estimated of a text; no bill rests on it where tokens are told."""


class Terms(NamedTuple):
    """What one request may spend: `output_limit` in tokens of each choice, None where a backend is told none.

    `ceiling` is what every other field that governs the length is lowered to; `clamped_to` is the limit that stands in
    place of what the caller asked for or could have had, where one does.
    """

    output_limit: int | None
    ceiling: int
    clamped_to: int | None = None

    @property
    def needed_limit(self) -> int:
        """The limit of a body that may not be without one."""
        return self.ceiling if self.output_limit is None else self.output_limit


class Seen(NamedTuple):
    """Tokens of an answer that can be known without its usage; None for a prompt that was not told."""

    prompt_tokens: int | None
    output_tokens: int


class Failure(NamedTuple):
    """An error as a backend told it: the HTTP status that it has or names; its words are cut and not yet understood."""

    status: int
    message: str
    kind: str = ""
    param: str | None = None


class Whole(NamedTuple):
    """An answer in one piece, which bears the public name of its model, and what it tells.

    A usage that is not exact is told otherwise than a client could read it.
    """

    body: Body
    finish_reason: str | None
    usage: Usage | None
    is_usage_exact: bool = False


class Surface(Protocol):
    """How a kind of request is read, and its refusals are worded.

    `done` is what ends a stream; `comment` is sent in one where nothing else is, and means nothing. `prompt_field` is
    what a prompt that is too long is refused by, `needs_limit` whether no body may be without a limit of its answer,
    `is_conversation` whether that field has turns, by which a model can be chosen, and `tasks` what a model may be
    there for.
    """

    name: SurfaceName
    tasks: tuple[Task, ...]
    prompt_field: str
    needs_limit: bool
    is_conversation: bool
    done: bytes
    comment: bytes

    def read(self, body: dict[str, Any], size_bytes: int) -> "Ask":
        """Read a parsed body. Raises GatewayError (400) with a message that says what to change."""

    def opening(self, body: dict[str, Any]) -> Iterable[bytes]:
        """What stays the same at a conversation's start, by which it finds the prefix cache that has it."""

    def last_frames(self, error: GatewayError, request_id: str, model: str) -> bytes:
        """The end of a stream by a failure."""


class UsageWishes(NamedTuple):
    """Whether a stream's client wants its usage told at the end, and in every frame."""

    at_end: bool
    in_each: bool
    with_cost: bool = False
    """Whether the cost is told as a number too, of an answer in one piece as well."""


NO_USAGE_WISHES = UsageWishes(at_end=False, in_each=False)


class PromptSize(NamedTuple):
    """What bounds a prompt in tokens.

    `text_bytes` is its size less the images; `parts` are the messages or inputs, each of which may cost what a chat
    template adds. `number` are read by themselves, each within the window; `choices` are of all of them together. Of
    the `images`, `remote_images` have to be fetched: until then a pixel stands for each in the body.
    """

    text_bytes: int
    parts: int
    number: int = 1
    token_ids: int | None = None
    """How many there are, where the prompt is nothing else: it need not be counted."""
    images: tuple[str, ...] = ()
    remote_images: tuple[RemoteImage, ...] = ()

    @property
    def estimated_text_tokens(self) -> int:
        """About what it has, less the images."""
        return self.text_bytes // BYTES_PER_TOKEN

    @classmethod
    def beside(cls, images: Iterable[SentImage], size_bytes: int, parts: int) -> "PromptSize":
        """Of a body of so many bytes that has these images."""
        sent = tuple(images)
        if not sent:
            return cls(size_bytes, parts)  # as of most requests, which pay for no iterators
        return cls(
            size_bytes - sum(image.size_chars for image in sent),
            parts,
            images=tuple(image.url for image in sent),
            remote_images=tuple(image.remote for image in sent if image.remote is not None),
        )


class AnswerSize(NamedTuple):
    """What a token of all choices may take in an answer in one piece, and the field that governs how large it is.

    `choices` are those that it has, where its surface may ask for the best ones.
    """

    bytes_per_token: int
    field: str
    choices: int = 1


@dataclass(slots=True, kw_only=True)
class Ask:
    """A request as its caller sent it, with what its surface read out of it.

    `body` is what of it may be forwarded: each attempt writes its own from it. It is put away once it is sent.
    `output_limit` is what the caller asked for of each choice, by whichever field; None where it named none. `choices`
    are made, by the field `choices_field`: none where nothing is generated. A long one (`is_long`) is worked on in
    several turns of the event loop.
    """

    surface: Surface
    body: dict[str, Any]
    model: str
    prompt: PromptSize
    is_stream: bool = False
    usage_wishes: UsageWishes = NO_USAGE_WISHES
    output_limit: int | None = None
    choices: int = 1
    choices_field: str = "n"
    answer_size: AnswerSize
    is_long: bool = False
    wanted_tools: WantedTools | None = None
    """What it asks for of servers of tools; the body has the caller's own tools alone."""
    route: WantedRoute | None = None
    """Which models and providers are to be asked, where it says so; the body does not."""
    request_id: str = ""
    """The one that the request is billed under; set once it is admitted."""
    _away: tuple[bytes, PlacedIds | None] = b"", None
    """The body as it was sent, where it is put away, and the token ids in it."""

    @property
    def routing(self) -> WantedRouting | None:
        """By what the model is to be chosen, where it asks for `auto`."""
        return None if self.route is None else self.route.routing

    def waiting_frames(self) -> bytes:
        """What a client is sent of a stream while there is nothing to tell."""
        return self.surface.comment

    def last_frames(self, error: GatewayError) -> bytes:
        """The end of its stream by a failure, whatever was told before."""
        return self.surface.last_frames(error, self.request_id, self.model)

    def put_away(self, sent: bytes) -> None:
        """Keep of the body only what was sent: parsed, it takes several times as much; images are still counted."""
        ids = self.body.get(self.surface.prompt_field) if sent else None
        ids_at = ids.within(sent, self.surface.prompt_field) if isinstance(ids, TokenIds) else None
        self.body, self._away = {}, (sent, ids_at)
        if images := self.prompt.images:
            self.prompt = self.prompt._replace(images=("",) * len(images), remote_images=())

    def take_out(self) -> None:
        """Have the body again that was put away, as it was sent."""
        sent, ids_at = self._away
        if sent:
            field = self.surface.prompt_field
            self.body = parse_exactly(sent) if ids_at is None else ids_at.taken_out(sent, field)
            self._away = b"", None

    def forget_body(self) -> None:
        """Keep nothing of what was sent on, which may be large, while the answer is told."""
        self.body, self._away = {}, (b"", None)


class Incoming(Protocol):
    """What comes of an answer as a stream, and what it amounts to so far.

    `feed` takes whatever arrived and returns what whole frames of it there are. `first_frame` is empty until the answer
    has begun. `tells_usage` is whether that frame tells a usage that can be.
    """

    @property
    def first_frame(self) -> bytes: ...
    @property
    def has_started(self) -> bool: ...
    @property
    def is_done(self) -> bool:
        """Whether nothing further is wanted: the backend has told the end, or an error."""

    @property
    def is_whole(self) -> bool:
        """Whether it may be delivered as an answer that has ended."""

    @property
    def failure(self) -> Failure | None:
        """The error that the backend told within it."""

    @property
    def usage(self) -> Usage | None:
        """The last usage told, as far as it can be read."""

    @property
    def seen(self) -> Seen:
        """What the answer has at least, where its usage cannot be believed."""

    @property
    def finish_reason(self) -> str | None: ...
    @property
    def held_bytes(self) -> int:
        """What is kept of what came."""

    def feed(self, piece: bytes) -> bytes:
        """Raises GatewayError for a frame without an end, or one that cannot be understood."""

    def feed_end(self) -> bytes:
        """The last frames, where the stream ended without the blank line behind them."""

    def has_told(self, frames: bytes) -> bool:
        """Whether the answer has any text, where these frames are all that has been handed out."""


class Reader(Incoming, Protocol):
    """A stream turned into the client's: what `feed` returns is what the client is to see."""

    @property
    def tells_usage(self) -> bool: ...

    def end(self, cost_usd: str | None = None, billed: Usage | None = None) -> bytes:
        """What was held back, once the stream has ended, with the cost within the usage that is told."""


class Collecting(Incoming, Protocol):
    """A stream put together to an answer in one piece."""

    @property
    def is_full(self) -> bool:
        """Whether it was cut at the largest size that is held whole."""

    @property
    def has_any(self) -> bool:
        """Whether anything has come of the answer."""

    @property
    def latest_words(self) -> str:
        """The end of what has come, for who watches."""

    def body(self, billed: Usage) -> Body:
        """The answer in one piece, which tells the usage that is billed."""
