"""The frozen settings tree: every setting with its default, its unit in the name and a line of help.

Read from a TOML file and from environment variables (`GATEWAY_` prefix, nested with `__`, which win over the file), or
from files that variables name (`_FILE` behind their names).
An unknown key is refused with the nearest known one. Secrets never appear in a repr or in a message.
"""

import contextlib
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args
from urllib.parse import urlsplit

import platformdirs
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from mcp_gateway.core.attribution_settings import AttributionSettings
from mcp_gateway.core.bytes_in_flight import OWNER_PART, largest_of
from mcp_gateway.core.caller import GUEST_ACCOUNT_ID, SERVER_LABEL
from mcp_gateway.core.config_faults import TABLES_IN_LISTS, KeyPath, describe_fault, describe_unknown_variable
from mcp_gateway.core.countries import COUNTRY_CODES
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.fees import FeeText, quoted
from mcp_gateway.core.file_variables import read_file_variables
from mcp_gateway.core.mcp_paths import MCP_PATHS
from mcp_gateway.core.money import MILLION_TOKENS, NANO_PER_CENT, PICO_PER_USD, parse_price, parse_usd
from mcp_gateway.core.oauth_settings import OAuthSettings
from mcp_gateway.core.oidc_settings import OidcSettings
from mcp_gateway.core.optimization import AUTO, MODE_ALIASES, MODES, Mode, MovedByFeedback, mode_named
from mcp_gateway.core.policy_links import PolicyLinks, PolicyUrl, SupportContact
from mcp_gateway.core.prices import Price, Rates, Tier
from mcp_gateway.core.prompt_tasks import TASKS, PromptTask, task_named
from mcp_gateway.core.provider_settings import ProviderSettings
from mcp_gateway.core.section import CommaSeparated, Section
from mcp_gateway.core.service_links import service_links
from mcp_gateway.core.text import one_line, shown
from mcp_gateway.core.valkey_address import valkey_address
from mcp_gateway.core.web_address import is_private, is_web_address
from mcp_gateway.core.webhook_secret import key_of

ENV_PREFIX = "GATEWAY_"
DEFAULT_FILE = Path("gateway.toml")
NOT_SETTINGS = {"GATEWAY_URL", "GATEWAY_API_KEY"}
"""Variables of the same prefix that the stdio bridge reads; a server started beside it must not stumble over them."""
ANY = "*"
"""In a list of hosts or origins: whichever."""
_ACCOUNT_ID = re.compile(r"acc_[0-9A-Za-z_]+")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_AUDIENCES = ("", "/v1", "/api/v1/inference", *MCP_PATHS)
"""Below public_url."""
_MAX_FAULT_CHARS = 1000
_MOST_PICO = {1: PICO_PER_USD // 100, MILLION_TOKENS: PICO_PER_USD}
"""For a token: more than a cent is meant for a million of them, unless it is written as a price of a million."""
_LEAST_PAYABLE_NANO = parse_usd("0.50")
_MOST_PAYABLE_NANO = parse_usd("999999.99")
"""Stripe's own bounds: https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts."""


class ConfigError(Exception):
    """The configuration cannot be used; the text lists each fault, where it stands and what to write instead."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = [shown(fault, _MAX_FAULT_CHARS) for fault in faults]
        super().__init__("\n- ".join(["The configuration cannot be used:", *self.faults]))


def _not_a_switch(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _none_in_words(value: Any) -> Any:
    return None if isinstance(value, str) and value.strip().lower() == "none" else value


def _checked_price(text: str, tokens: int) -> str:
    try:
        price_pico = parse_price(text, tokens)
    except ValueError:
        price_pico = -1
    if 0 <= price_pico <= _MOST_PICO[tokens]:
        return text
    if tokens == MILLION_TOKENS:
        wanted = 'from "0" to "1000000", at most 6 decimals, such as "0.05"'
        raise ValueError(f"must be USD for a million tokens, as per_million says, {wanted}")
    if price_pico > 0:
        raise ValueError(
            "is more than 0.01 USD for a single token: write per_million = true beside it if it is for a million "
            'tokens, or the price of one ("0.15" for a million is "0.00000015" for one)'
        )
    raise ValueError('must be USD for a single token, from "0" to "0.01", at most 12 decimals, such as "0.00000005"')


def _checked_usd(text: str) -> str:
    try:
        is_amount = parse_usd(text) >= 0
    except ValueError:
        is_amount = False
    if not is_amount:
        raise ValueError('must be an amount in USD, at most 9 decimals, such as "0.50"')
    return text


def _checked_payable_usd(text: str) -> str:
    if parse_usd(text) % NANO_PER_CENT or not _LEAST_PAYABLE_NANO <= parse_usd(text) <= _MOST_PAYABLE_NANO:
        raise ValueError('must be an amount in USD from "0.50" to "999999.99", in whole cents')
    return text


def _checked_page_url(text: str) -> str:
    if not is_web_address(text):
        raise ValueError("must be an address such as https://app.example.com/billing")
    return text


def _checked_base_url(text: str) -> str:
    if not is_web_address(text):
        raise ValueError("must be an address such as http://10.0.0.5:8000")
    url = urlsplit(text)
    if url.username is not None or url.query or url.fragment:
        raise ValueError("must be an address without user name, password, `?` or `#`; keys have a setting of their own")
    return text.rstrip("/").removesuffix("/v1").rstrip("/")


def _checked_server_url(text: str) -> str:
    """Servers have parameters in their addresses, so that `?` stands for itself."""
    if not is_web_address(text):
        raise ValueError("must be an address such as https://mcp.example.com/mcp")
    url = urlsplit(text)
    if url.username is not None or url.fragment:
        raise ValueError("must be an address without user name, password or `#`; api_key_env names the key's variable")
    return text


def _checked_webhook_url(text: str) -> str:
    if not is_web_address(text) or urlsplit(text).username is not None or urlsplit(text).fragment:
        raise ValueError("must be an address such as https://hooks.example.com/gateway, without user name or `#`")
    return text


def _checked_database_url(url: SecretStr) -> SecretStr:
    """What is wrong with it is said without it, since it may have a password."""
    parts = urlsplit(url.get_secret_value())
    if parts.scheme not in ("postgresql", "postgres"):
        raise ValueError("begins with postgresql://, as in postgresql://user@host/database")
    if not parts.path.strip("/"):
        raise ValueError("names a database behind the host, as in postgresql://user@host/database")
    return url


def _checked_webhook_secret(secret: SecretStr) -> SecretStr:
    key_of(secret.get_secret_value())
    return secret


def _checked_account(text: str) -> str:
    if text != ANY and (not _ACCOUNT_ID.fullmatch(text) or text == GUEST_ACCOUNT_ID):
        raise ValueError("must be an account's id, such as acc_0193, or *; guests have none of this")
    return text


def _checked_network(text: str) -> str:
    try:
        ip_network(text, strict=False)
    except ValueError:
        raise ValueError("must be an IP address or network, such as 10.0.0.5 or 10.0.0.0/8") from None
    return text


def _checked_host(text: str) -> str:
    if not text or "/" in text or not text.isprintable() or " " in text:
        raise ValueError("must be a host name as in a Host header, such as gateway.example.com or localhost:8080")
    return text


def _checked_listening_host(text: str) -> str:
    """An address may have the brackets that it has in a URL."""
    host = text.removeprefix("[").removesuffix("]")
    if set(":/[]") & set(host):
        try:
            ip_address(host)
        except ValueError:
            problem = "must be an address or a name alone, such as 127.0.0.1; the port is a setting of its own"
            raise ValueError(problem) from None
    return host


def _checked_day(value: Any) -> str:
    """A date as TOML has it, or as text."""
    text = value.isoformat() if isinstance(value, date) else value
    with contextlib.suppress(TypeError, ValueError):
        if date.fromisoformat(text).isoformat() == text:
            return str(text)
    raise ValueError("must be a date such as 2027-06-30")


def _checked_origin(text: str) -> str:
    """As browsers write it: in lower case, and without the port that the scheme has anyway."""
    if text == ANY:
        return text
    scheme, separator, host = text.lower().partition("://")
    if not (scheme and separator and host) or set("/*") & set(host) or not text.isprintable() or " " in text:
        raise ValueError("must be scheme and host without a path or final slash, such as https://app.example.com, or *")
    return f"{scheme}://{host.removesuffix(_DEFAULT_PORTS.get(scheme, ''))}"


def _checked_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be visible ASCII characters, without spaces or line ends")
    return secret


def _checked_valkey_url(secret: SecretStr) -> SecretStr:
    valkey_address(secret.get_secret_value())
    return secret


def _checked_path(value: Any) -> Any:
    if value == "":
        raise ValueError("must not be empty")
    return value


def _checked_folder(path: Path) -> Path:
    with contextlib.suppress(OSError):  # what cannot be looked at is told when it is opened
        if path.exists() and not path.is_dir():
            raise ValueError("must be a folder, and there is a file of that name")
    return path


def _with_a_port(ports: tuple[int, ...]) -> tuple[int, ...]:
    if not ports:
        raise ValueError("must name a port, such as 443; fetch_images = false is how nothing is fetched")
    return ports


def _with_a_webhook_port(ports: tuple[int, ...]) -> tuple[int, ...]:
    if not ports:
        raise ValueError("must name a port, such as 443")
    return ports


def _with_text(modalities: tuple[str, ...]) -> tuple[str, ...]:
    if "text" not in modalities:
        raise ValueError('must be ["text"] or ["text", "image"]: every model is asked in text')
    return modalities


def _checked_country(text: str) -> str:
    """One that does not exist would block nobody, and nobody would know: UK for GB."""
    code = text.strip().upper()
    if code not in COUNTRY_CODES:
        raise ValueError("must be countries as ISO 3166-1 has them, in two letters, such as GB")
    return code


Line = Annotated[str, AfterValidator(one_line)]
ModelName = Annotated[Line, Field(pattern=r"^\S+$")]
Whole = Annotated[int, BeforeValidator(_not_a_switch)]
NonNegative = Annotated[Whole, Field(ge=0)]
Positive = Annotated[Whole, Field(ge=1)]
OptionalLimit = Annotated[Positive | None, BeforeValidator(_none_in_words)]
Seconds = Annotated[float, BeforeValidator(_not_a_switch), Field(ge=0)]
PositiveSeconds = Annotated[float, BeforeValidator(_not_a_switch), Field(gt=0)]
PriceText = Annotated[str, BeforeValidator(quoted)]
UsdText = Annotated[str, BeforeValidator(quoted), AfterValidator(_checked_usd)]
PayableUsdText = Annotated[UsdText, AfterValidator(_checked_payable_usd)]
BaseUrl = Annotated[str, AfterValidator(_checked_base_url)]
ServerUrl = Annotated[str, AfterValidator(_checked_server_url)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")]
WebhookUrl = Annotated[str, AfterValidator(_checked_webhook_url)]
AccountName = Annotated[str, AfterValidator(_checked_account)]
PageUrl = Annotated[str, AfterValidator(_checked_page_url)]
Secret = Annotated[SecretStr, AfterValidator(_checked_secret)]
DatabaseUrl = Annotated[Secret, AfterValidator(_checked_database_url)]
WebhookSecret = Annotated[Secret, AfterValidator(_checked_webhook_secret)]
ValkeyUrl = Annotated[Secret, AfterValidator(_checked_valkey_url)]
Network = Annotated[str, AfterValidator(_checked_network)]
HostName = Annotated[str, AfterValidator(_checked_host)]
WebOrigin = Annotated[str, AfterValidator(_checked_origin)]
FilePath = Annotated[Path, BeforeValidator(_checked_path), AfterValidator(Path.expanduser)]
FolderPath = Annotated[FilePath, AfterValidator(_checked_folder)]
PortNumber = Annotated[Whole, Field(ge=1, le=65535)]
Day = Annotated[str, BeforeValidator(_checked_day)]
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
CountryCode = Annotated[str, AfterValidator(_checked_country)]
Feature = Literal["tools", "json_mode", "structured_outputs", "logprobs", "reasoning"]
Modality = Literal["text", "image"]
Modalities = Annotated[tuple[Modality, ...], CommaSeparated, AfterValidator(_with_text)]


Task = Literal["generate", "embed", "score"]
"""What a model does: text, embeddings, or scores of texts."""
Choice = Literal["order", "weight", "price", "latency"]
"""Which of several candidates is asked first."""


def _by_task(value: Any) -> Any:
    """By the tasks' own names, where others were written."""
    return {_task_of(name): rate for name, rate in value.items()} if isinstance(value, dict) else value


def _task_of(name: str) -> PromptTask:
    try:
        return task_named(name, "quality")
    except GatewayError:
        raise ValueError(f"may name these tasks: {', '.join(TASKS)}") from None


def _mode_of(value: Any) -> Any:
    try:
        return mode_named(value, "optimize") if isinstance(value, str) else value
    except GatewayError:
        raise ValueError(f"must be one of {', '.join((*MODES, *MODE_ALIASES))}") from None


Share = Annotated[float, BeforeValidator(_not_a_switch), Field(ge=0, le=1)]
Qualities = Annotated[dict[PromptTask, Share], BeforeValidator(_by_task)]


RATES = ("prompt", "completion", "cached_prompt", "cache_write")


class TierSettings(Section):
    """What all tokens of a request cost whose prompt is long; repeat the heading for each length."""

    above_prompt_tokens: Positive = Field(examples=[200_000])
    """It is for prompts with more tokens than that."""
    prompt: PriceText = Field(examples=["0.0000001"])
    """USD for a prompt token, or for a million, as the prices above."""
    completion: PriceText = Field(default="", examples=["0.0000003"])
    """The same for a completion token."""
    cached_prompt: PriceText = Field(default="", examples=["0.00000002"])
    """The same for a prompt token that a cache had; otherwise it costs what the others do."""
    cache_write: PriceText = Field(default="", examples=["0.00000012"])
    """The same for a prompt token that is written to a cache; otherwise it costs what the others do."""


class PricingSettings(Section):
    """What tokens cost. Once any model has prices, one that has none is published only if it says `free = true`."""

    per_million: bool = False
    """Prices are for a million tokens; otherwise for one, and more than "0.01" is refused."""
    prompt: PriceText = Field(default="", examples=["0.00000005"])
    """USD for a prompt token (or a million), a decimal string; "0" is a price."""
    completion: PriceText = Field(default="", examples=["0.00000015"])
    """The same for a completion token; a model that generates has both prices."""

    cached_prompt: PriceText = Field(default="", examples=["0.00000001"])
    """The same for a prompt token that a cache had; otherwise it costs what the others do."""
    cache_write: PriceText = Field(default="", examples=["0.00000006"])
    """The same for one that is written to a cache, where a backend tells; otherwise it costs what the others do."""
    request: FeeText = Field(default="", examples=["0.001"])
    """USD for each request that is charged at all, beside its tokens; up to "100"."""
    image: FeeText = Field(default="", examples=["0.002"])
    """USD for each image of a request, beside its tokens."""
    tiers: tuple[TierSettings, ...] = ()

    @property
    def price(self) -> Price:
        """In pico-USD."""
        tokens = _tokens_of(self.per_million)
        return Price(
            *_rates_of(self, tokens),
            request_pico=_pico(self.request) or 0,
            image_pico=_pico(self.image) or 0,
            tiers=tuple(Tier(tier.above_prompt_tokens, _rates_of(tier, tokens)) for tier in self.tiers),
        )

    @field_validator("prompt", "completion", "cached_prompt", "cache_write")
    @classmethod
    def _is_price(cls, text: str, info: ValidationInfo) -> str:
        return _checked_price(text, _tokens_of(info.data.get("per_million", False)))

    @field_validator("tiers", mode="before")
    @classmethod
    def _are_headed(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise ValueError("must be headed [[models.pricing.tiers]], with double brackets, once for each length")
        return value

    @field_validator("tiers")
    @classmethod
    def _are_tiers(cls, tiers: tuple[TierSettings, ...], info: ValidationInfo) -> tuple[TierSettings, ...]:
        lengths = [tier.above_prompt_tokens for tier in tiers]
        if lengths != sorted(set(lengths)):
            raise ValueError("must stand by above_prompt_tokens, the shortest first, no two alike")
        for number, tier in enumerate(tiers, 1):
            for name in RATES:
                if text := getattr(tier, name):
                    try:
                        _checked_price(text, _tokens_of(info.data.get("per_million", False)))
                    except ValueError as fault:
                        raise ValueError(f"number {number}: {name} {fault}") from None
        return tiers

    def check_is_whole(self, *, generates: bool) -> None:
        """Raise ValueError where a price is missing."""
        if missing := [name for name in ("prompt", "completion")[: 1 + generates] if not getattr(self, name)]:
            needed = "a model that generates needs both prompt and completion" if generates else "it needs prompt"
            raise ValueError(f'has no price for {" and ".join(missing)}: {needed} ("0" is a price)')
        if generates and any(not tier.completion for tier in self.tiers):
            raise ValueError("has a tier without a price for completion tokens: a model that generates needs both")


def _as_candidates(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list, or headed [[models.candidates]], with double brackets, once for each")
    return value


def _tokens_of(is_per_million: bool) -> int:
    return MILLION_TOKENS if is_per_million else 1


def _rates_of(settings: "PricingSettings | TierSettings", tokens: int) -> Rates:
    cached_pico, write_pico = _pico(settings.cached_prompt, tokens), _pico(settings.cache_write, tokens)
    return Rates(_pico(settings.prompt, tokens) or 0, _pico(settings.completion, tokens) or 0, cached_pico, write_pico)


def _pico(text: str, tokens: int = 1) -> int | None:
    return parse_price(text, tokens) if text else None


class CandidateSettings(Section):
    """One of several that may answer for a model; the next is asked where one fails before its first token."""

    provider: Line = Field(default="", examples=["deepseek"])
    """The name of a provider; otherwise the model's own, or the vLLM servers."""
    backend_model: Line = Field(default="", examples=["deepseek-chat"])
    """The name that it has there; otherwise the model's own backend_model."""
    weight: Positive = 1
    """Its share of the requests that are asked of it first, where `choose` is weight."""
    pricing: PricingSettings | None = Field(default=None, examples=[{"prompt": "0.0000003", "completion": "0.0000009"}])
    """What it costs where this one answers, as in [models.pricing]; otherwise what that says."""


class ModelSettings(Section):
    """A model that clients may ask for; repeat the heading for each."""

    id: ModelName = Field(examples=["gwmm/gemma-4-12b-it"])
    """Public name, which clients ask for; may contain slashes."""
    backend_model: Line = Field(default="", examples=["google/gemma-4-12b-it"])
    """The name the backend knows it by; otherwise the public name."""
    provider: Line = Field(default="", examples=["deepseek"])
    """The name of the provider that answers for it; otherwise the vLLM servers do."""
    choose: Choice = "order"
    """Which candidate is asked first: as they stand, by weight, the cheapest, or who was the quickest of late."""
    aliases: Annotated[tuple[ModelName, ...], CommaSeparated] = Field(
        default=(), examples=[["claude-gemma-4-12b", "gpt-4o-mini"]]
    )
    """Further names by which clients may ask for it, as some programs have names built in; no two uses of a name."""
    name: Line = Field(default="", examples=["Gemma 4 12B"])
    """Name for people; otherwise the id."""
    description: Line = Field(default="", examples=["A small general model that calls tools."])
    """One sentence for people and models that choose."""
    context_window: Positive | None = Field(default=None, examples=[28672])
    """Tokens of prompt and output together; otherwise what the backend reports."""
    max_output_tokens: Positive | None = Field(default=None, examples=[8192])
    """The most output tokens of one answer; otherwise the context window."""
    quantization: Line | None = Field(default=None, min_length=1, examples=["bf16"])
    """int4, int8, fp4, fp8, bf16, ...: shown in the catalog."""
    features: Annotated[tuple[Feature, ...], CommaSeparated] = ("tools", "json_mode", "structured_outputs", "logprobs")
    """What a model that generates supports beyond text: tools, json_mode, structured_outputs, logprobs, reasoning."""
    input_modalities: Modalities = ("text",)
    """text, or text and image."""
    guests: bool | None = Field(default=None, examples=[False])
    """May callers without a key use it? Otherwise only when it is `free`, or no model has a price."""
    task: Task | None = Field(default=None, examples=["generate"])
    """generate, embed or score: it is offered for nothing else; otherwise for whatever its backend serves."""
    hugging_face_id: Line = Field(default="", examples=["google/gemma-4-12b-it"])
    """Its repository on Hugging Face; told, as the next three are, at /v1/models?format=openrouter."""
    openrouter_slug: Line = Field(default="", examples=["google/gemma-4-12b-it"])
    """The name by which OpenRouter lists it."""
    deprecation_date: Day | None = Field(default=None, examples=["2027-06-30"])
    """The day on which it is switched off."""
    datacenters: Annotated[tuple[Country, ...], CommaSeparated] = Field(default=(), examples=[["DE", "US"]])
    """The countries where it runs, by their codes of two letters."""
    quality: Qualities = Field(default={}, examples=[{"code": 0.7, "math": 0.4}])
    """How often it is expected to do a task well, from 0 to 1, for `auto`; until outcomes say otherwise."""
    free: bool = False
    """It costs nothing, which has to be said of a model without a price once another has one."""
    pricing: PricingSettings | None = None
    candidates: Annotated[tuple[CandidateSettings, ...], BeforeValidator(_as_candidates)] = ()

    @property
    def sources(self) -> tuple[CandidateSettings, ...]:
        """Who may answer for it, each by the name that the model has there, and with its own price if it has one."""
        name = self.backend_model or self.id
        return tuple(
            CandidateSettings.model_construct(
                provider=one.provider or self.provider,
                backend_model=one.backend_model or name,
                weight=one.weight,
                pricing=one.pricing or self.pricing,
            )
            for one in self.candidates or (CandidateSettings(),)
        )

    @model_validator(mode="after")
    def _has_its_prices(self) -> Self:
        for pricing in (self.pricing, *(candidate.pricing for candidate in self.candidates)):
            if pricing is not None:
                pricing.check_is_whole(generates=self.task in (None, "generate"))
        return self

    @model_validator(mode="after")
    def _is_free_or_priced(self) -> Self:
        prices = [candidate.pricing for candidate in self.sources]
        if self.free and any(pricing is not None and not pricing.price.is_free for pricing in prices):
            raise ValueError("is free and has prices: leave out free = true, or [models.pricing]")
        return self

    @model_validator(mode="after")
    def _has_distinct_candidates(self) -> Self:
        places = [(candidate.provider, candidate.backend_model) for candidate in self.sources]
        if len(set(places)) < len(places):
            raise ValueError("has the same candidate twice")
        return self

    @model_validator(mode="after")
    def _output_fits_context(self) -> Self:
        if self.context_window and self.max_output_tokens and self.max_output_tokens > self.context_window:
            raise ValueError("max_output_tokens must not be more than context_window, which counts the prompt too")
        return self


class GuestSettings(Section):
    """Callers without a key."""

    enabled: bool = True
    """Serve callers without a credential; when false they get 401."""
    requests_per_minute: Positive = 5
    """Requests of one address (IPv6: one /64) in a clock minute."""
    requests_per_minute_per_48: Positive = 50
    """Requests of all addresses of one IPv6 /48 in a clock minute."""
    listing_requests_per_minute_per_48: Positive = 6000
    """Of all addresses of one IPv6 /48: calls that ask for models or limits."""
    in_flight: Positive = 64
    """Requests of all guests together that may run at once."""
    in_flight_per_address: Positive = 4
    """Requests of one address that may run at once."""
    in_flight_per_48: Positive = 16
    """Requests of all addresses of one IPv6 /48 that may run at once."""
    addresses_per_minute: Positive = 100_000
    """Guest addresses and IPv6 /48s counted apart in a clock minute; further ones share the limits of one."""
    max_tokens: Positive = 256
    """A guest's max_tokens is lowered to this."""
    max_json_values: Positive = 20_000
    """The same of a guest's request."""
    max_body_bytes: Positive = 256 * 1024
    """A guest's largest request body; the general one where enable_vision is on and a model for guests takes images."""


class LimitSettings(Section):
    """Of each key that sets none of its own, and of all keys of an account together; the first four take "none"."""

    requests_per_minute: OptionalLimit = 60
    """Requests in a clock minute."""
    requests_per_day: OptionalLimit = 1000
    """Requests in a UTC day."""
    tokens_per_minute: OptionalLimit = 100_000
    """Prompt and output tokens in a clock minute."""
    in_flight: OptionalLimit = 64
    """Requests that run at once."""
    listing_requests_per_minute: Positive = 600
    """Of one guest address or all keys of one account: calls that ask for models, balance or keys, and MCP messages."""
    report_timeout_s: PositiveSeconds = 30.0
    """The longest that a list or a report of an account (usage, requests, transactions, keys) may take: 503 then."""
    assumed_output_tokens: Positive = 1024
    """Counted against tokens_per_minute until the end for a request that names no max_tokens."""
    keys_per_account: Positive = 100
    """Live keys that one account may have."""
    keys_per_account_per_day: Positive = 1000
    """Keys that one account may make in a UTC day, revoked ones and rotations included."""
    minted_keys_per_account: Positive = 10_000
    """Live keys that one account's keys may have made with budgets; they count in neither of the two above."""
    minted_keys_per_minute: Positive = 60
    """Such keys that one account may make in a clock minute, revoked ones and rotations included."""
    max_choices: Positive = 8
    """The highest n of one request."""
    max_json_values: Positive = 200_000
    """The most values and names in the JSON of one request, less its token ids; a quarter in a body above 4 MiB."""


class UserSettings(Section):
    """People who sign in."""

    registration: Literal["open", "invite", "closed"] | None = Field(default=None, examples=["closed"])
    """Who may register: anybody; whom an owner or the operator invites; whom the operator invites. Otherwise the first
    account alone, and then only whom the operator invites."""
    session_idle_s: Positive = 12 * 3600
    """A session that is not used for so long has ended."""
    session_lifetime_s: Positive = 7 * 86_400
    """A session ends so long after its sign-in, used or not."""
    sessions_per_user: Positive = 100
    """Sessions of one user; a further one ends the one that was used the longest ago."""
    token_lifetime_s: Annotated[Whole, Field(ge=60, le=86_400)] = 900
    """How long a token (JWT) is good that POST /auth/login has made."""
    insecure_cookie: bool = False
    """Set the browser's cookie without `__Host-` and `Secure`, for plain http elsewhere than on this machine."""


class UpstreamSettings(Section):
    """Connections to the backends."""

    connect_timeout_s: PositiveSeconds = 5.0
    """Opening a connection to a backend."""
    first_token_timeout_s: PositiveSeconds = 20.0
    """A stream that brings no token for this long after it was sent fails with 502, unless its backend shows work."""
    first_token_s_per_1k_prompt_tokens: Seconds = 2.0
    """Added to first_token_timeout_s for each 1,000 tokens of the prompt, which are estimated."""
    first_token_max_s: PositiveSeconds = 300.0
    """The most that a first token is waited for while the backend shows that it works."""
    idle_timeout_s: PositiveSeconds = 60.0
    """Silence between two pieces of a stream, unless its backend shows that it works."""
    unary_timeout_s: PositiveSeconds = 600.0
    """The whole of an answer that a backend is asked for in one piece; one collected from a stream has its times."""
    total_timeout_s: PositiveSeconds = 3600.0
    """The longest that any answer may take."""
    keep_alive_s: PositiveSeconds = 4.0
    """An idle connection is closed after this; below vLLM's 5 s."""
    max_response_bytes: Positive = 64 * 1024 * 1024
    """The largest answer that is not streamed."""
    collect_above_tokens: Annotated[int, Field(ge=-1)] = 2048
    """An answer in one piece that may be longer than this is asked of the backend as a stream; 0: all, -1: none."""
    start_wait_s: Seconds = 1.0
    """How long the start waits for the backends to tell what they have; who takes longer is known when it answers."""
    discovery_interval_s: PositiveSeconds = 10.0
    """How often each backend's /health, /v1/models and /metrics are read again; every second while it is down."""
    discovery_timeout_s: PositiveSeconds = 5.0
    """A backend that has not told how it is within this time, twice in a row, counts as down."""
    counters_kept_days: Positive = 400
    """What a backend had counted of tokens is kept for so long, for `ledger reconcile`: after a day, of each hour."""
    breaker_failures: Positive = 5
    """After so many failed requests in a row a backend is left alone, as long as there is another."""
    breaker_rest_s: PositiveSeconds = 5.0
    """How long such a backend is left alone before a single request tries whether it serves again."""
    retry_share: Share = 0.2
    """Of the requests, the share that may be sent to a second backend because the first failed, over ten seconds."""
    queue_comment_s: Seconds = 10.0
    """A stream that has brought no token for this long begins with a comment, and again each time; 0: no comments."""
    pass_fields: Annotated[tuple[Line, ...], CommaSeparated] = ()
    """Fields of a chat that are sent on although docs/backends.md does not list them as passed."""
    pass_template_kwargs: Annotated[tuple[Line, ...], CommaSeparated] = ()
    """The same of names in chat_template_kwargs."""


class RoutingSettings(Section):
    """How a model is chosen for who asks for `auto`."""

    model_pool: Annotated[tuple[ModelName, ...], CommaSeparated] = Field(
        default=(), examples=[["gwmm/gemma-4-12b-it", "deepseek/chat"]]
    )
    """The ids or aliases of those that it is chosen from; otherwise every model that generates text."""
    optimize: Annotated[Mode, BeforeValidator(_mode_of)] = "balanced"
    """balanced, quality, cost or latency, where neither the request nor its key says it."""
    default_model: Line = Field(default="", examples=["gwmm/gemma-4-12b-it"])
    """What is taken to be the best until outcomes say otherwise; otherwise the first of the pool."""
    least_quality: Share = 0.9
    """Of the best one's expected success: what a model must have to be chosen for its price or its speed."""
    feedback: MovedByFeedback = "own"
    """Whose choices an account's scores move: its own, those of all (each account a tenth of a cell), or nobody's."""


class WalletSettings(Section):
    """When a priced request may run."""

    min_useful_tokens: Positive = 16
    """A priced request is refused with 402 when the balance does not cover its prompt and this many output tokens."""
    template_margin_tokens: NonNegative = 64
    """For a chat template that no backend has counted: added to the worst prompt, once and again for each message."""
    max_image_tokens: Positive = 4096
    """The most prompt tokens that one image can become."""
    minimum_balance_usd: UsdText = "0"
    """Priced requests are refused below this balance."""
    ample_holds: NonNegative = 8
    """A request holds its worst case where the balance covers that so many times; else, where its stream tells what it
    has cost so far, its prompt and a slice of output after the other as it comes. 0: always the worst case."""
    hold_wait_s: Seconds = 5.0
    """How long a request waits for money that the account's own running requests hold; 0: not at all."""
    settle_wait_s: PositiveSeconds = 30.0
    """How long an answer waits for its bill to be on the disk; one not delivered by then is refused and not billed."""
    usage_missing: Literal["estimate", "hold", "free"] = "estimate"
    """What is billed where a backend tells no usage that can be: an estimate of the tokens, all that is held, or 0."""


class ImageFetchSettings(Section):
    """Images that a request names by their address, which the gateway fetches where `fetch_images` is on."""

    max_image_bytes: Positive = 8 * 1024 * 1024
    """The largest image; all of a request, as base64, and the rest of its body fit max_body_bytes together."""
    timeout_s: PositiveSeconds = 10.0
    """The longest that all images of a request may take together, waiting for their turn included."""
    max_per_request: Positive = 8
    """Images that one request may name by their address."""
    max_at_once_per_account: Positive = 4
    """Images fetched at once for one account; further ones wait."""
    max_at_once_per_host: Positive = 2
    """Images fetched at once from one host, for everybody; further ones wait."""
    ports: Annotated[tuple[PortNumber, ...], CommaSeparated, AfterValidator(_with_a_port)] = (443,)
    """The ports that an image's address may have."""


class PolicySettings(Section):
    """Where models may not be asked from. A country is two letters of ISO 3166-1; XX stands for one that is unknown."""

    blocked_countries: Annotated[tuple[CountryCode, ...], CommaSeparated] = Field(default=(), examples=[["KP", "IR"]])
    """Countries from which inference and sign-up are refused (403 unsupported_region), over MCP too."""
    country_header: HeaderName | None = Field(default=None, examples=["CF-IPCountry"])
    """Header in which trusted_proxies tell a client's country; nobody else is believed."""
    country_database: FilePath | None = Field(default=None, examples=["/var/lib/GeoIP/GeoLite2-Country.mmdb"])
    """File in MaxMind's format that tells an address's country where no header does; read again when it changes."""

    @model_validator(mode="after")
    def _learns_of_countries(self) -> Self:
        if self.blocked_countries and self.country_header is None and self.country_database is None:
            raise ValueError("blocked_countries needs country_header or country_database: nothing tells a country else")
        return self


_STRIPE_API = "https://api.stripe.com"


class StripeSettings(Section):
    """Top-ups through Stripe, none without its keys. The webhook goes to /v1/billing/webhook under public_url."""

    secret_key: Secret | None = Field(default=None, examples=["sk_live_..."])
    """Stripe's secret API key, or a restricted one: customers, PaymentIntents, checkout and portal sessions."""
    webhook_secret: Secret | None = Field(default=None, examples=["whsec_..."])
    """Signing secret of the webhook, for checkout.session.*, charge.refunded and charge.dispute.* events."""
    minimum_topup_usd: PayableUsdText = "5"
    """The smallest top-up."""
    maximum_topup_usd: PayableUsdText = "1000"
    """The largest top-up."""
    auto_topup: bool = False
    """Let accounts be topped up by themselves, by a payment method that they saved, once their balance is low."""
    maximum_auto_topup_per_day_usd: PayableUsdText = "1000"
    """The most that an account may have paid by itself in a UTC day."""
    success_url: PageUrl | None = Field(default=None, examples=["https://app.example.com/paid"])
    """Page to which Stripe sends a browser after payment; otherwise the gateway's own root."""
    cancel_url: PageUrl | None = Field(default=None, examples=["https://app.example.com/billing"])
    """Page to which Stripe sends a browser that left without paying; otherwise the gateway's own root."""
    return_url: PageUrl | None = Field(default=None, examples=["https://app.example.com/billing"])
    """Page to which Stripe's customer portal leads back; otherwise the gateway's own root."""
    topup_url: PageUrl | None = Field(default=None, examples=["https://app.example.com/billing"])
    """Page for people that 402 answers name as `topup_url`; otherwise the checkout endpoint under public_url."""
    timeout_s: PositiveSeconds = 20.0
    """The longest that a caller waits for Stripe."""
    api_base: BaseUrl = _STRIPE_API
    """Where Stripe is; for tests."""

    @property
    def is_configured(self) -> bool:
        return self.secret_key is not None

    @property
    def page_origins(self) -> tuple[str, ...]:
        """Where people pay and see what was paid; a stand-in for Stripe has its pages where it is itself."""
        if not self.is_configured:
            return ()
        if self.api_base == _STRIPE_API:
            return "https://checkout.stripe.com", "https://billing.stripe.com"
        parts = urlsplit(self.api_base)
        return (f"{parts.scheme}://{parts.netloc}",)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.secret_key is None) != (self.webhook_secret is None):
            raise ValueError(
                "secret_key needs webhook_secret and the other way round: else no payment is ever credited"
            )
        if parse_usd(self.minimum_topup_usd) > parse_usd(self.maximum_topup_usd):
            raise ValueError("minimum_topup_usd must not be more than maximum_topup_usd")
        if self.auto_topup and self.secret_key is None:
            raise ValueError("auto_topup needs secret_key and webhook_secret")
        if parse_usd(self.minimum_topup_usd) > parse_usd(self.maximum_auto_topup_per_day_usd):
            raise ValueError("minimum_topup_usd must not be more than maximum_auto_topup_per_day_usd")
        return self


class WebhookSettings(Section):
    """Events of accounts' money, told by signed HTTP (docs/webhooks.md); accounts set webhooks of their own."""

    url: WebhookUrl | None = Field(default=None, examples=["https://hooks.example.com/gateway"])
    """The operator's webhook, which is told of every account."""
    secret: WebhookSecret | None = Field(default=None, examples=["whsec_cmVwbGFjZS1tZS13aXRoLXJhbmRvbS1ieXRlcw=="])
    """What the operator's are signed by, as Standard Webhooks have it: whsec_ and 24 to 64 random bytes in base64."""
    allow_http: bool = False
    """Let url be http:// elsewhere than on this machine."""
    timeout_s: PositiveSeconds = 10.0
    """How long a receiver may take to answer."""
    ports: Annotated[tuple[PortNumber, ...], CommaSeparated, AfterValidator(_with_a_webhook_port)] = (443,)
    """The ports that an account's webhook may have."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.url is None) != (self.secret is None):
            raise ValueError("url needs secret and the other way round: nobody could tell whose events they are")
        if self.url is not None and not self.allow_http and not is_private(self.url):
            raise ValueError(
                "url must be https:// where it is not on this machine; allow_http = true lets it be http://"
            )
        return self


class McpSettings(Section):
    """The MCP door, and what bounds the tools of other servers (`mcp_servers`)."""

    session_idle_timeout_s: PositiveSeconds = 1800.0
    """A session that says nothing for this long is ended."""
    max_sessions: Positive = 10_000
    """Sessions at once, over all callers, guests at most half; as many streams that listen, and unfinished calls."""
    max_sessions_per_caller: Positive = 1000
    """The same of one key, and of all keys behind one address; a new session ends the longest unused."""
    max_sessions_per_guest_address: Positive = 100
    """The same of one guest's address (IPv6: one /64)."""
    disconnect_grace_s: Seconds = 5.0
    """How long a call of a client that vanished runs on, where the protocol lets the client come back."""
    collect_above_tokens: Annotated[int, Field(ge=-1)] = 0
    """As `upstream.collect_above_tokens`, for calls of chat_completion without progress; with progress all are."""
    expose_tools: bool = False
    """Tell keys the tools that their chats may use (GET /mcp/tools); otherwise that is 403."""
    tool_rounds: Annotated[Whole, Field(ge=1, le=99)] = 8
    """How often a model is asked in one chat that uses tools; the last time it has to answer without them."""
    tool_search_from: OptionalLimit = 30
    """From so many tools on, a model is offered two in their place, which find and call them; "none": never."""
    tool_timeout_s: PositiveSeconds = 30.0
    """How long a call of a tool may take; the model is told of one that takes longer."""
    tool_result_bytes: Annotated[Whole, Field(ge=256)] = 64 * 1024
    """What a model is given of a tool's result; the rest is cut, and the model is told so."""
    tool_connect_timeout_s: PositiveSeconds = 10.0
    """How long a server may take to begin a session and to list its tools."""
    tool_list_interval_s: PositiveSeconds = 60.0
    """How often a server is asked for its tools, beside whenever it says that they have changed."""
    tool_sessions_per_server: Positive = 64
    """Sessions at once of accounts at one server that is not `shared`; a new one ends the longest unused."""
    max_budget_lifetime_s: Positive = 86_400
    """The longest that a key may live which create_budget makes."""


class McpServerSettings(Section):
    """A server whose tools chats may use (docs/mcp-servers.md); repeat the heading for each."""

    label: Annotated[str, Field(pattern=rf"^{SERVER_LABEL.pattern}$")] = Field(examples=["time"])
    """What chats call it by (`server_label`): 1 to 32 letters, digits, _ and -."""
    url: ServerUrl | None = Field(default=None, examples=["https://mcp.example.com/mcp"])
    """Where it is, for one that is reached over HTTP."""
    transport: Literal["streamable-http", "sse"] = "streamable-http"
    """How it is spoken to there: streamable-http, or sse for the older HTTP+SSE."""
    command: Line = Field(default="", examples=["uvx"])
    """The program to start, for one that is spoken to over its standard input and output."""
    args: tuple[Line, ...] = Field(default=(), examples=[["mcp-server-time"]])
    """Its arguments."""
    env: tuple[VariableName, ...] = Field(default=(), examples=[["GITHUB_TOKEN"]])
    """The environment variables of the gateway that it is given, beside HOME, PATH and the like."""
    api_key_env: VariableName | None = Field(default=None, examples=["MCP_EXAMPLE_KEY"])
    """The environment variable that has the key which is sent to the `url`."""
    api_key_file: FilePath | None = Field(default=None, examples=["/run/secrets/mcp-example-key"])
    """The file that has it, instead."""
    api_key_header: HeaderName | None = Field(default=None, examples=["X-API-Key"])
    """The header that it is sent in as it is; otherwise in Authorization, as a bearer token."""
    tools: tuple[Line, ...] = (ANY,)
    """The names of its tools that chats may use; `*` for all."""
    accounts: tuple[AccountName, ...] = Field(default=(), examples=[["acc_0193"]])
    """The accounts whose keys may use it; `*` for all of them, guests and test keys never."""
    shared: bool = False
    """Whether all accounts may use one session of it: for servers that remember nothing of who asks."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.url is None) == (not self.command):
            raise ValueError("needs either url or command")
        if self.url is None and (self.api_key_env or self.api_key_file or self.transport != "streamable-http"):
            raise ValueError("has a command: transport and api_key_... are for a url, env is for a command")
        if self.url is not None and (self.args or self.env):
            raise ValueError("has a url: args and env are for a command")
        if self.api_key_env and self.api_key_file:
            raise ValueError("needs api_key_env or api_key_file, not both")
        if self.api_key_header and not (self.api_key_env or self.api_key_file):
            raise ValueError("has api_key_header and no key: name api_key_env or api_key_file")
        return self


def _server_of(url: str) -> tuple[str, str, int | None, str]:
    """What two spellings of one server have in common."""
    parts = urlsplit(url)
    host = (parts.hostname or "").removesuffix(".")
    port = parts.port or int(_DEFAULT_PORTS[parts.scheme][1:])
    return parts.scheme, "127.0.0.1" if host == "localhost" else host, port, parts.path


def _without_repeats(urls: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(map(_server_of, urls))) < len(urls):
        raise ValueError("must not name the same server twice")
    return urls


def _headed_in_double_brackets(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError("must be headed [[models]], with double brackets, once for each model")
    return value


def _headed_as_servers(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError("must be headed [[mcp_servers]], with double brackets, once for each server")
    return value


def _with_distinct_labels(servers: tuple[McpServerSettings, ...]) -> tuple[McpServerSettings, ...]:
    labels = Counter(server.label for server in servers)
    if repeated := sorted(label for label, count in labels.items() if count > 1):
        raise ValueError(f"each label must stand once; more than one use has {', '.join(repeated)}")
    return servers


def _provider_headings(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError("must be headed [[providers]], with double brackets, once for each provider")
    return value


def _with_distinct_names(providers: tuple[ProviderSettings, ...]) -> tuple[ProviderSettings, ...]:
    names = Counter(provider.name for provider in providers)
    if repeated := sorted(name for name, count in names.items() if count > 1):
        raise ValueError(f"each name must stand once; more than one use has {', '.join(repeated)}")
    return providers


def _with_distinct_ids(models: tuple[ModelSettings, ...]) -> tuple[ModelSettings, ...]:
    names = Counter(name for model in models for name in (model.id, *model.aliases))
    if repeated := sorted(name for name, count in names.items() if count > 1):
        raise ValueError(f"each id and alias must stand once; more than one use has {', '.join(repeated)}")
    return models


class DatabasePlace(NamedTuple):
    """Where a database is."""

    folder: Path
    """Of what else a gateway keeps."""
    url: str | None
    """Of one that is elsewhere."""
    is_shared: bool
    """Whether several gateways may serve from it at once."""


class Settings(Section):
    """The whole tree."""

    host: Annotated[Line, Field(pattern=r"^\S+$"), AfterValidator(_checked_listening_host)] = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[Whole, Field(ge=0, le=65535)] = 8080
    """Port to listen on; 0 takes a free one."""
    data_dir: FolderPath = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("mcp-gateway", appauthor=False)),
        examples=["/var/lib/mcp-gateway"],
    )
    """Folder of the database; otherwise the system's place for a user's data (Linux: ~/.local/share/mcp-gateway)."""
    database_url: DatabaseUrl | None = Field(default=None, examples=["postgresql://gateway@db.internal/gateway"])
    """A PostgreSQL database (16 or newer) in place of the one in `data_dir`; needs the extra `postgres`."""
    valkey_url: ValkeyUrl | None = Field(default=None, examples=["valkeys://:password@valkey.internal:6379/0"])
    """Valkey or Redis that counts limits for all replicas together (valkeys:// for TLS); unset: this process does."""
    valkey_ca_file: FilePath | None = Field(default=None, examples=["/etc/mcp-gateway/valkey-ca.pem"])
    """Certificates of the authorities that a valkeys:// server may be of; otherwise the system's."""
    public_url: BaseUrl | None = Field(default=None, examples=["https://gateway.example.com"])
    """Where clients reach the gateway: used in links, and allowed by the Host check."""
    trusted_proxies: Annotated[tuple[Network, ...], CommaSeparated] = Field(default=(), examples=[["10.0.0.0/8"]])
    """Addresses or networks whose X-Forwarded-For is believed; of others the client is the socket's peer."""
    allowed_hosts: Annotated[tuple[HostName, ...], CommaSeparated] = Field(
        default=(), examples=[["gateway.internal:8080"]]
    )
    """Further Hosts that clients may name while `host` is loopback (else they may name any); `*` allows any."""
    cors_origins: Annotated[tuple[WebOrigin, ...], CommaSeparated] = Field(
        default=(), examples=[["https://app.example.com"]]
    )
    """Browser origins whose pages may call both doors and read what they answer (CORS); `*` allows any."""
    allowed_origins: Annotated[tuple[WebOrigin, ...], CommaSeparated] = Field(
        default=(), examples=[["https://app.example.com"]]
    )
    """Further such origins; the public_url's own is always allowed, and for MCP every one on loopback."""
    vllm_urls: Annotated[tuple[BaseUrl, ...], CommaSeparated, AfterValidator(_without_repeats)] = Field(
        default=(), examples=[["http://10.0.0.5:8000", "http://10.0.0.6:8000"]]
    )
    """Addresses of vLLM servers; none: the demo backend serves."""
    vllm_api_key: Secret | None = Field(default=None, examples=["the-key-of-your-vllm-servers"])
    """Sent to every vLLM server as a bearer token."""
    public_models: bool = True
    """Tell everybody the models, guests or not (GET /models, /models/{id}); false: only holders of a key, MCP too."""
    public_stats: Literal["full", "status", "off"] = "full"
    """What GET /stats and /status tell: models and traffic too; state and incident alone; nothing (404)."""
    publish_discovered: bool = False
    """Publish, free of charge, models that a backend lists and no entry in `models` names, while none has a price."""
    enable_vision: bool = False
    """Accept images in messages, sent along as data: URIs."""
    fetch_images: bool = False
    """Fetch images that keys name by an https address, from public servers alone, and send them on as data."""
    image_blocklist_file: FilePath | None = Field(default=None, examples=["/etc/mcp-gateway/blocked-images.txt"])
    """SHA-256 hashes of images that are refused, one in hex per line; read again when the file changes."""
    requests_keep_days: NonNegative = 400
    """Records of requests are deleted when they are so old, and what names whom they were made for; 0: never."""
    max_body_bytes: Positive = 16 * 1024 * 1024
    """The largest request body; each MiB takes about 2 ms in which nothing else is served."""
    max_in_flight_bytes: Positive = 256 * 1024 * 1024
    """All bodies, answers that come in whole and unread answers in memory; a caller and an address have an eighth."""
    max_header_bytes: Annotated[Whole, Field(ge=1024)] = 64 * 1024
    """The largest request head; below 1 KiB no client would be served."""
    max_connections: Positive | None = Field(default=None, examples=[4096])
    """Connections of clients at once; otherwise half of the files that the process may open, at most 16384."""
    max_connections_per_address: Positive = 512
    """The same of one address (IPv6: one /64), except trusted_proxies, and loopback while those are empty."""
    client_stall_timeout_s: PositiveSeconds = 60.0
    """A client that stops sending its request, or reading its answer, for this long has left."""
    drain_announce_s: Seconds = 3.0
    """After SIGTERM, how long new requests are answered 503 while the port is still open."""
    drain_timeout_s: Seconds = 30.0
    """After the announcement, how long running requests may take to finish."""
    maintenance: bool = False
    """Answer every new request 503 `maintenance`."""
    incident: Line | None = Field(default=None, min_length=1, examples=["Answers are slow: one server is down."])
    """Text for people that the public status, GET /stats, shows beside the facts."""
    terms_url: PolicyUrl | None = Field(default=None, examples=["https://example.com/terms"])
    """Your terms of use: shown on pages and in /openapi.json, and told to whom `content_policy` refuses."""
    privacy_url: PolicyUrl | None = Field(default=None, examples=["https://example.com/privacy"])
    """Your privacy policy: shown on pages and in /openapi.json."""
    support_contact: SupportContact | None = Field(default=None, examples=["help@example.com"])
    """An e-mail or https address: shown there too, and told beside what is not allowed, our failures and limits."""
    metrics_token: Secret | None = Field(default=None, examples=["a-long-random-token"])
    """Bearer token for /metrics from elsewhere than loopback; without it, loopback only."""
    operator_token: Secret | None = Field(default=None, examples=["another-long-random-token"])
    """Bearer token of the operator: with it /health, which tells others one word, names backends and reasons."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """debug, info, warning or error; no level ever logs content."""
    log_format: Literal["text", "json"] = "text"
    """text or json: one JSON object a line, with time, level, logger and message."""
    guests: GuestSettings = GuestSettings()
    limits: LimitSettings = LimitSettings()
    users: UserSettings = UserSettings()
    oidc: OidcSettings = OidcSettings()
    oauth: OAuthSettings = OAuthSettings()
    attribution: AttributionSettings = AttributionSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    policy: PolicySettings = PolicySettings()
    image_fetch: ImageFetchSettings = ImageFetchSettings()
    wallet: WalletSettings = WalletSettings()
    routing: RoutingSettings = RoutingSettings()
    stripe: StripeSettings = StripeSettings()
    webhooks: WebhookSettings = WebhookSettings()
    mcp: McpSettings = McpSettings()
    providers: Annotated[
        tuple[ProviderSettings, ...], BeforeValidator(_provider_headings), AfterValidator(_with_distinct_names)
    ] = ()
    models: Annotated[
        tuple[ModelSettings, ...], BeforeValidator(_headed_in_double_brackets), AfterValidator(_with_distinct_ids)
    ] = ()
    mcp_servers: Annotated[
        tuple[McpServerSettings, ...], BeforeValidator(_headed_as_servers), AfterValidator(_with_distinct_labels)
    ] = ()

    @model_validator(mode="after")
    def _knows_its_providers(self) -> Self:
        known = [provider.name for provider in self.providers]
        for model in self.models:
            for name in (candidate.provider for candidate in model.sources):
                if name and name not in known:
                    there = f"[[providers]] has {', '.join(known)}" if known else "there is no [[providers]]"
                    raise ValueError(f"the model {model.id} names the provider {shown(name)}, and {there}")
        return self

    @model_validator(mode="after")
    def _keeps_the_name_of_the_choice(self) -> Self:
        for model in self.models:
            if AUTO in (model.id, *model.aliases):
                raise ValueError(f"`{AUTO}` stands for whichever model is chosen, and can be no model's id or alias")
        return self

    @model_validator(mode="after")
    def _believes_some_proxy(self) -> Self:
        if self.policy.country_header is not None and not self.trusted_proxies:
            raise ValueError("policy.country_header needs trusted_proxies: of nobody else it is believed")
        return self

    @model_validator(mode="after")
    def _can_be_returned_to(self) -> Self:
        """By browsers from the issuer, and by the address that tokens are for."""
        oidc = self.oidc
        if oidc.is_configured and self.public_url is None:
            raise ValueError("oidc.issuer needs public_url: tokens are made for it, and browsers come back to it")
        if oidc.link_by_email and self.users.registration in ("open", "invite") and not oidc.only:
            raise ValueError(
                "oidc.link_by_email needs another users.registration than open and invite: whoever registers has not "
                "shown that the address is theirs"
            )
        if oidc.client_id in self.oidc_audiences and not oidc.client_id_is_audience:
            raise ValueError(
                "oidc.audiences has the client_id, for which tokens are made that only say who signed in: name another "
                "one, or write client_id_is_audience = true if the issuer can do no better"
            )
        return self

    @model_validator(mode="after")
    def _can_sign_people_in(self) -> Self:
        """By its own authorization server, which clients find below an address that nobody on the way can change."""
        if not self.oauth.enabled:
            return self
        if self.oidc.is_configured:
            raise ValueError(
                "oauth.enabled is for gateways without oidc.issuer: clients can only be led to one of them"
            )
        if self.public_url is None or not is_private(self.public_url):
            raise ValueError(
                "oauth.enabled needs public_url, in https or on this machine: clients sign people in there"
            )
        return self

    @model_validator(mode="after")
    def _sees_what_it_fetches(self) -> Self:
        if self.fetch_images and not self.enable_vision:
            raise ValueError("fetch_images needs enable_vision = true: else every image is refused")
        return self

    @model_validator(mode="after")
    def _reads_authorities_for_tls(self) -> Self:
        url = self.valkey_url
        if self.valkey_ca_file is not None and (url is None or not valkey_address(url.get_secret_value()).is_encrypted):
            raise ValueError("valkey_ca_file is for a valkey_url that begins with valkeys://")
        return self

    @model_validator(mode="after")
    def _fits_in_flight(self) -> Self:
        """Whatever is allowed to a single request must find room, or it would be refused for ever."""
        if self.max_in_flight_bytes < OWNER_PART * self.max_body_bytes:
            raise ValueError(f"max_in_flight_bytes must be at least {OWNER_PART} times max_body_bytes")
        largest_bytes = self.max_body_bytes + self.upstream.max_response_bytes
        if largest_of(self.max_in_flight_bytes) < largest_bytes:
            raise ValueError(
                "max_in_flight_bytes is too little for one body of max_body_bytes and one answer of max_response_bytes"
            )
        return self

    @property
    def is_replica(self) -> bool:
        """Whether it may be one of several on one database: limits are counted, and sessions kept, for all of them."""
        return self.database_url is not None and self.valkey_url is not None

    @property
    def database_place(self) -> DatabasePlace:
        url = None if self.database_url is None else self.database_url.get_secret_value()
        return DatabasePlace(self.data_dir, url, self.is_replica)

    @property
    def oidc_audiences(self) -> tuple[str, ...]:
        """Whom an issuer's token must be for, one of these; by default whatever address of ours a program may ask."""
        if self.oidc.audiences or not self.oidc.is_configured:
            return self.oidc.audiences
        return tuple(f"{self.public_url}{below}" for below in _AUDIENCES)

    @property
    def policy_links(self) -> PolicyLinks:
        return PolicyLinks(self.terms_url, self.privacy_url, self.support_contact)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of what can be served and is seldom meant."""
        warnings = []
        if self.users.insecure_cookie:
            warnings.append("users.insecure_cookie: whoever reads the network reads the sessions of browsers")
        if self.oidc.is_configured and not self.oidc.lets_newcomers_in:
            let_in = "set oidc.creates_users or oidc.link_by_email"
            warnings.append(f"oidc.issuer lets in only those who came before: to let in others, {let_in}")
        return tuple(warnings)

    @property
    def topup_url(self) -> str | None:
        """Where people top an account up, as far as anybody has told."""
        if self.stripe.topup_url is None and self.stripe.is_configured and self.public_url is not None:
            return f"{self.public_url}/v1/billing/checkout"
        return self.stripe.topup_url


@dataclass(frozen=True, slots=True)
class Setting:
    """One leaf of the tree; those of tables that there may be several of have no environment variable."""

    path: KeyPath
    field: FieldInfo

    @property
    def variable(self) -> str | None:
        return None if self.path[:1] in TABLES_IN_LISTS else ENV_PREFIX + "__".join(self.path).upper()


def settings_of(section: type[Section], path: KeyPath = ()) -> Iterator[Setting]:
    """Every leaf of a part of the tree, in the order it is written in."""
    for name, field in section.model_fields.items():
        inner = _section_in(field.annotation)
        if inner is not None and not field.examples:  # with an example a table is told elsewhere
            yield from settings_of(inner, (*path, name))
        else:
            yield Setting((*path, name), field)


@cache
def _every_setting() -> tuple[Setting, ...]:
    """Walked through once: the tree is as long as the process lives."""
    return tuple(settings_of(Settings))


def _section_in(annotation: Any) -> type[Section] | None:
    """The part of the tree that a field is, may be, or has several of."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def file_in_force(config_file: Path | None) -> Path | None:
    """The file that is named, else `gateway.toml` in the working folder where there is one."""
    return config_file or (DEFAULT_FILE if DEFAULT_FILE.is_file() else None)


def passed_over(environ: Mapping[str, str]) -> list[str]:
    """The variables of our prefix that a Service of the same name brought, in order."""
    return sorted(name for name in service_links(environ) if name.startswith(ENV_PREFIX))


def load_settings(config_file: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of a TOML file with those of `environ` over them; an empty variable counts as unset.

    Which file that is, `file_in_force` says; which variables are none of ours, `passed_over`. Raises ConfigError.
    """
    file = file_in_force(config_file)
    tree = _read_toml(file) if file else {}
    known = [setting.path for setting in _every_setting()]
    paths = {setting.variable: setting.path for setting in _every_setting() if setting.variable}
    links = passed_over(environ)
    given = {name: text for name, text in environ.items() if name.startswith(ENV_PREFIX) and text and name not in links}
    in_files = read_file_variables(given, paths.keys())
    said = {name: given[name] for name in given.keys() & paths.keys()} | in_files.texts
    for name, text in said.items():
        _put(tree, paths[name], text)
    faults = in_files.faults
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        variables = {paths[name]: in_files.names.get(name, name) for name in said}
        faults += [
            describe_fault(fault, known, variables, str(file or "settings"))
            for fault in error.errors(include_url=False, include_input=False)
        ]
    unknown = given.keys() - paths.keys() - NOT_SETTINGS - set(in_files.names.values())
    faults += [describe_unknown_variable(name, paths) for name in sorted(unknown)]
    if faults:
        raise ConfigError(faults)
    return settings


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        fault = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        fault = "is not UTF-8 text"
    except ValueError as error:
        fault = f"is not TOML: {error}; text needs quotes"
    raise ConfigError([f"{file}: {fault}"])


def _put(tree: dict[str, Any], path: KeyPath, text: str) -> None:
    """A table that the file does not write as one is left as it is: a fault that is reported."""
    *tables, name = path
    for table in tables:
        tree = tree.setdefault(table, {})
        if not isinstance(tree, dict):
            return
    tree[name] = text
