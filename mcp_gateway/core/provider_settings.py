"""How a provider is reached and spoken to: the rows of `providers.toml`, one for each that is known; `[[providers]]`.

Both have the same fields, so that an operator can say otherwise of any. Knows names and values, and no requests.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mcp_gateway.core.fees import FeeText
from mcp_gateway.core.proxy_paths import ProxiedAs, checked_path
from mcp_gateway.core.section import Section
from mcp_gateway.core.text import nearest, one_line

_FILE = Path(__file__).with_name("providers.toml")
GENERIC = "openai"
"""The kind that with a `base_url` of its own is any server with OpenAI's API."""
_RESERVED = frozenset({"vllm", "demo"})
"""Names of other sources of answers."""
_ACCOUNT = "{account}"
_JOINED = ("headers", "completions", "embeddings", "responses")
"""Tables of a row of which an operator may say a part."""


def _checked_header_value(text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise ValueError("must be visible ASCII characters in one line")
    return text


def _checked_url(text: str) -> str:
    url = urlsplit(text.replace(_ACCOUNT, "account"))
    try:
        is_address = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_address = False
    if not is_address or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be an address such as https://api.example.com/v1")
    if url.username is not None or url.query or url.fragment:
        raise ValueError("must be an address without user name, password, `?` or `#`; keys have settings of their own")
    return text.rstrip("/")


def _checked_error(text: str) -> str:
    status, _, code = text.partition(" ")
    is_status = status.isdigit() and len(status) == 3 and status.startswith(("4", "5"))  # noqa: PLR2004 - digits
    if not is_status and not (status == "*" and code):
        raise ValueError('must be a status, with a code or type behind it or not, such as "402" or "429 no_quota"')
    return text


def _list(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError('must be a list, such as ["one", "two"]')
    return value


Line = Annotated[str, AfterValidator(one_line)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
_KEY_HEADERS = frozenset({
    "api-key", "authorization", "connection", "content-length", "cookie", "expect", "host", "proxy-authorization", "te",
    "trailer", "transfer-encoding", "upgrade", "x-api-key", "x-goog-api-key",
})  # fmt: skip
"""Of keys, and of one connection alone."""


def _checked_passed_header(name: str) -> str:
    if name.lower() in _KEY_HEADERS:
        raise ValueError("must not be a header of keys or of connections")
    return name


PassedHeader = Annotated[HeaderName, AfterValidator(_checked_passed_header)]
HeaderValue = Annotated[str, AfterValidator(_checked_header_value)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Url = Annotated[str, AfterValidator(_checked_url)]
PathBelow = Annotated[str, Field(pattern=r"^/[!-~]*$")]
Error = Annotated[str, AfterValidator(_checked_error)]
Names = Annotated[tuple[Line, ...], BeforeValidator(_list)]
Errors = Annotated[tuple[Error, ...], BeforeValidator(_list)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""How much a model is to think, from the least to the most."""
ProxyPath = Annotated[str, AfterValidator(checked_path)]


class PlaceSettings(Section):
    """Where a provider is, by whose key, and by which name."""

    name: Name = Field(examples=["deepseek"])
    """By which entries, callers (`name/model`) and the request log call it."""
    kind: Name = Field(default="", examples=["deepseek"])
    """openai, anthropic, cohere, groq, cloudflare, ollama, deepseek, mistral, moonshot or google; otherwise its name.
    openai with a base_url of its own is any server with that API."""
    base_url: Url = Field(default="", examples=["https://llm.example.com/v1"])
    """Where its API is, with /v1 or what there is in its place; otherwise where its kind is."""
    api_key_env: Variable | None = Field(default=None, examples=["DEEPSEEK_API_KEY"])
    """The environment variable that has its key, which never stands in this file; needless where `auth` is none."""
    api_key_file: Line | None = Field(default=None, examples=["/run/secrets/deepseek"])
    """The file that has its key, where that variable is not named or not set."""
    account_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = Field(
        default=None, examples=["0123456789abcdef"]
    )
    """The account that is part of cloudflare's address."""
    keep_alive_s: Annotated[float, Field(gt=0)] = 30.0
    """An idle connection to it is closed after this."""
    reasoning_names: Names = Field(default=(), examples=[["reasoning", "reasoning_content"]])
    """By which of these names its reasoning is told to callers, both where both stand here; otherwise as it comes."""
    proxy: bool = False
    """Whether accounts that may (`accounts change --proxy`) ask it by its own paths, at /proxy/NAME/...."""
    proxy_prices: dict[ProxyPath, FeeText] = Field(default_factory=dict, examples=[{"POST /v1/moderations": "0.0005"}])
    """USD for a request of an entry in `proxy_paths`; one without a price is refused, and "0" is a price."""


class SurfaceSettings(Section):
    """How a provider differs from OpenAI in another surface than chats."""

    rename: dict[Line, Line] = Field(default_factory=dict)
    drop: Names = ()
    refuse: Names = ()
    set: dict[Line, Any] = Field(default_factory=dict)
    pass_fields: Names = ()
    """As of chats."""
    inputs: Literal["tokens", "texts", "text"] = "tokens"
    """Whether it reads texts and token ids, texts, or one text at a time."""
    most_inputs: Annotated[int, Field(gt=0)] | None = None
    """How many it reads at a time."""


class DialectSettings(Section):
    """How a provider differs from OpenAI's API as most servers have it, which the defaults are."""

    auth: Literal["bearer", "x-header", "none"] = "bearer"
    """How the key is sent: as a bearer token, in the header `auth_header`, or not at all."""
    auth_header: HeaderName = Field(default="x-api-key", examples=["api-key"])
    """The header of the key where `auth` is x-header."""
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict, examples=[{"x-team": "gateway"}])
    """Further headers of every request, beside those of its preset."""
    chat_path: PathBelow | Literal[""] = "/chat/completions"
    """Where chats are sent, below base_url; empty where they are asked as messages."""
    messages_path: PathBelow | Literal[""] = Field(default="", examples=["/messages"])
    """Where messages are sent as Anthropic has them, below base_url; empty where it has none."""
    completions_path: PathBelow | Literal[""] = "/completions"
    """Where completions are asked for, below base_url; empty where it has none."""
    embeddings_path: PathBelow | Literal[""] = "/embeddings"
    """The same of embeddings."""
    responses_path: PathBelow | Literal[""] = Field(default="", examples=["/responses"])
    """The same of responses."""
    betas: Names = Field(default=(), examples=[["context-management"]])
    """Features of such messages that callers may ask for by the header anthropic-beta: how their names begin."""
    longest_cache: Literal["5m", "1h"] = "5m"
    """The longest that such a message may have its prompt cached: an hour costs more to write, which the model's
    pricing.cache_write has to cover then."""
    models_url: Url = Field(default="", examples=["https://api.example.com/v1/models"])
    """Where its list of models is; otherwise at /models below base_url."""
    models_at: Line = "data"
    """Under which key of that answer the list stands."""
    models_id: Line = "id"
    """Under which key of a row a model's name stands."""
    models_prefix: Line = Field(default="", examples=["models/"])
    """What the names of its list begin with, and need not where a model is asked for."""
    output_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The field that it bounds an answer by, whichever of the two a caller sent."""
    rename: dict[Line, Line] = Field(default_factory=dict, examples=[{"seed": "random_seed"}])
    """Fields of a request that it calls otherwise."""
    drop: Names = Field(default=(), examples=[["user", "messages.name"]])
    """Fields that are left out, since it refuses them and an answer is the same without; a dot leads into a field."""
    refuse: Names = Field(default=(), examples=[["logprobs", "n=1"]])
    """Fields that it has not and that an answer would lack: another candidate is asked, else it is 400.

    A value behind `=` is the one that is allowed.
    """
    clamp: dict[Line, tuple[float, float]] = Field(default_factory=dict, examples=[{"temperature": [0, 1]}])
    """The least and the most that a number may be: others are sent as the nearer of the two."""
    set: dict[Line, Any] = Field(default_factory=dict, examples=[{"store": False}])
    """What every request has, whatever a caller sent."""
    pass_fields: Names = Field(default=(), examples=[["thinking"]])
    """Fields that are passed on beside OpenAI's."""
    replay: Names = Field(default=(), examples=[["reasoning_content"]])
    """Keys of earlier messages that are passed on beside OpenAI's, since a next turn needs them."""
    efforts: Annotated[tuple[Effort, ...], BeforeValidator(_list)] = ("low", "medium", "high")
    """The values of reasoning_effort that it knows, for requests that say it otherwise (POST /messages): sent is the
    nearest; without any, none is."""
    completions: SurfaceSettings = Field(default_factory=SurfaceSettings, examples=[{"inputs": "text"}])
    """How its completions differ: rename, drop, refuse, set and pass_fields as they are for chats; what it reads
    (inputs: tokens, texts, or text, one at a time), and how many at a time (most_inputs)."""
    embeddings: SurfaceSettings = Field(
        default_factory=SurfaceSettings, examples=[{"rename": {"dimensions": "output_dimension"}, "most_inputs": 96}]
    )
    """The same of its embeddings."""
    responses: SurfaceSettings = Field(default_factory=SurfaceSettings, examples=[{"drop": ["include"]}])
    """The same of its responses."""
    stream_usage: Literal["ask", "always", "never"] = "ask"
    """Whether a stream tells its usage when asked by stream_options, without, or is never asked."""
    content: Literal["parts", "string"] = "parts"
    """Whether it takes the parts of a text, or only the text that they make."""
    schema_form: Literal["openai", "object", "bare", "none"] = "openai"
    """How a JSON schema for the answer is written: as OpenAI does, as json_object with a schema (object), the schema
    alone (bare); or it has none, and such a request goes to another candidate or is refused."""
    money_errors: Errors = ("402", "* insufficient_quota")
    """Statuses, and codes or types, of errors that mean that the operator's account there is empty.

    Several words behind a status are how the message of such an error begins.
    """
    limit_errors: Errors = ("429", "* rate_limit_exceeded")
    """The same of its rate limits."""
    busy_errors: Errors = ("503", "529")
    """The same of a server that is full."""
    key_errors: Errors = ("401", "403")
    """The same of a key that it does not take, or that may not do this."""
    proxy_base: Url = Field(default="", examples=["https://api.example.com"])
    """Below what the paths of /proxy hang; otherwise base_url without /v1, or what its preset has in its place."""
    proxy_surfaces: dict[PathBelow, ProxiedAs] = Field(
        default={
            "/v1/chat/completions": "chat",
            "/v1/completions": "completions",
            "/v1/embeddings": "embeddings",
            "/v1/models": "models",
        }
    )
    """Those of its paths whose requests the gateway reads, holds and bills as its own, and as what; models are listed
    that are sold of it."""
    proxy_paths: Annotated[tuple[ProxyPath, ...], BeforeValidator(_list)] = Field(
        default=(), examples=[["POST /v1/moderations", "POST /v1/models/*:run"]]
    )
    """Further ones that may be asked, as they are, at a flat price; * is one part of a path, or of a part."""
    proxy_auth_header: HeaderName | None = Field(default=None, examples=["x-goog-api-key"])
    """The header of the key there, where it is another."""
    proxy_headers: tuple[PassedHeader, ...] = Field(default=(), examples=[["x-example-beta"]])
    """Headers of a caller that are passed on there, beside those that say what a body is."""


class Preset(DialectSettings):
    """A provider that is known."""

    base_url: Url
    evidence: Line
    """When this row was checked, and against what."""


class ProviderSettings(DialectSettings, PlaceSettings):
    """A provider whose models entries in `models` may name; repeat the heading for each. Its key stands elsewhere."""

    @model_validator(mode="before")
    @classmethod
    def _has_no_key(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "api_key" in value:
            raise ValueError("the key itself must not stand here: name its variable (api_key_env) or file")
        return value

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.name in _RESERVED:
            raise ValueError(f"{self.name} is a name of our own: choose another")
        row = row_of(self)
        if row.auth != "none" and self.api_key_env is None and self.api_key_file is None:
            raise ValueError('it needs api_key_env or api_key_file; or auth = "none"')
        if (_ACCOUNT in row.base_url) and self.account_id is None:
            raise ValueError("it needs account_id, which is part of its address")
        if unlisted := [path for path in self.proxy_prices if path not in row.proxy_paths]:
            raise ValueError(f"proxy_prices: {unlisted[0]} is not in its proxy_paths: {', '.join(row.proxy_paths)}")
        return self


def row_of(provider: ProviderSettings) -> Preset:
    """The row of its kind with whatever the operator says otherwise. Raises ValueError for a kind that there is not."""
    known, kind = presets(), provider.kind or provider.name
    if kind not in known:
        near = nearest(kind, known)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ValueError(f"kind {kind} is unknown; {meant}")
    is_generic = kind == GENERIC and provider.base_url and provider.base_url != known[GENERIC].base_url
    base = {} if is_generic else known[kind].model_dump(exclude_unset=True)
    own = provider.model_dump(exclude_unset=True, include={*DialectSettings.model_fields, "base_url"})
    if not provider.base_url:
        own.pop("base_url", None)
    for name in _JOINED:
        own[name] = base.get(name, {}) | own.get(name, {})
    if "proxy_base" not in own:
        own["proxy_base"] = _root_of(own.get("base_url") or base["base_url"], None if is_generic else known[kind])
    return Preset.model_validate({"evidence": "as the operator says", **base, **own})


def _root_of(base_url: str, preset: Preset | None) -> str:
    """Where the paths of /proxy hang: the preset's place, or else what an address of one's own has in that place."""
    if preset is not None and base_url == preset.base_url and preset.proxy_base:
        return preset.proxy_base
    below = "/v1"
    if preset is not None and preset.proxy_base:
        below = urlsplit(preset.base_url).path.removeprefix(urlsplit(preset.proxy_base).path)
    return base_url.removesuffix(below)


@cache
def presets() -> Mapping[str, Preset]:
    """The rows of those that are known, by their kind."""
    rows = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    return {kind: Preset.model_validate(row) for kind, row in rows.items()}


def address_of(provider: ProviderSettings, url: str) -> str:
    """An address of its row, with its account."""
    return url.replace(_ACCOUNT, provider.account_id or "")
