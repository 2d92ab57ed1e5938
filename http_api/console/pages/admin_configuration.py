"""The configuration in force, for administrators, without its secrets: all settings, and the prices among them."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import orjson

from http_api.admin.configuration import Configuration
from http_api.console.forms import Form
from http_api.console.serving import Console, Shown, asking
from http_api.exports import at_once, attachment, export
from http_api.operations import Access, Answered, AnyOperation, Asked, Nothing, Streamed, Told, written
from http_api.query import AnyQuery

CONFIGURATION_PATH = "/console/admin/configuration"
PRICES_PATH = "/console/admin/prices"
_GENERAL = "general"


class SetPrice(Told):
    """What a model costs, or one of its candidates, in USD per token, request and image.

    Of those with more than `above_prompt_tokens` where that is told. Null is what is not set: a cache's tokens cost
    what the others do then, and a model without a price has no price at all.
    """

    model: str
    provider: str | None
    free: bool
    above_prompt_tokens: int | None = None
    prompt_usd: str | None = None
    completion_usd: str | None = None
    input_cache_read_usd: str | None = None
    input_cache_write_usd: str | None = None
    request_usd: str | None = None
    image_usd: str | None = None


class ConfigurationPages:
    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration

    def rows(self, console: Console) -> list[AnyOperation]:
        row: dict[str, Any] = {"access": Access.ADMINISTRATOR, "is_always_answered": True}
        return [
            console.page(CONFIGURATION_PATH, self.settings, **row),
            console.page(f"{CONFIGURATION_PATH}.json", self.settings_file, **row),
            console.page(PRICES_PATH, self.prices, **row),
            console.page(f"{PRICES_PATH}.csv", self.price_table, **row),
            console.page(f"{PRICES_PATH}.json", self.price_file, **row),
        ]

    async def settings(self, asked: Asked[AnyQuery, Form]) -> Shown:
        told = await self._configuration.config(asking(asked, Nothing()))
        return Shown("admin_configuration.html", {"sections": [*_sections(told.settings)], "is_open": {"limits"}})

    async def settings_file(self, asked: Asked[AnyQuery, Form]) -> Answered[bytes]:
        return _file("configuration.json", written(await self._configuration.config(asking(asked, Nothing()))))

    async def prices(self, asked: Asked[AnyQuery, Form]) -> Shown:
        return Shown("admin_prices.html", {"prices": await self._prices(asked)})

    async def price_table(self, asked: Asked[AnyQuery, Form]) -> Streamed:
        return export("prices", "csv", SetPrice, at_once(await self._prices(asked)))

    async def price_file(self, asked: Asked[AnyQuery, Form]) -> Answered[bytes]:
        """As the API's list has them."""
        return _file("prices.json", written(await self._configuration.prices(asking(asked, Nothing()))))

    async def _prices(self, asked: Asked[AnyQuery, Form]) -> Sequence[SetPrice]:
        told = await self._configuration.prices(asking(asked, Nothing()))
        return [price for model in told.data for price in _prices_of(model)]


def _file(name: str, body: bytes) -> Answered[bytes]:
    return Answered(body, None, (attachment(name),), "application/json")


def _sections(settings: dict[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Each with its settings as lines; what stands in no section comes first, and of lists of tables each is one."""
    yield _GENERAL, [(name, _text(value)) for name, value in settings.items() if not _has_tables(value)]
    for name, value in settings.items():
        if isinstance(value, dict):
            yield name, [*_lines(value)]
        elif _has_tables(value):
            for table in value:
                yield f"{name}: {table.get('id') or table.get('name')}", [*_lines(table)]


def _has_tables(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, dict) for one in value))


def _lines(table: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _lines(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", _text(value)


def _text(value: Any) -> str:
    """As JSON has it; a list without anything, and what is not set, as nothing."""
    if value is None or value in ([], ""):
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _prices_of(model: dict[str, Any]) -> Iterator[SetPrice]:
    """The model's own, and those of its candidates that cost otherwise; with a line for each tier."""
    candidates = model["candidates"]
    if model["pricing"] or not candidates:
        yield from _lines_of(model, None, model["pricing"])
    for candidate in candidates:
        yield from _lines_of(model, candidate["provider"], candidate["pricing"])


def _lines_of(model: dict[str, Any], provider: str | None, pricing: dict[str, Any] | None) -> Iterator[SetPrice]:
    for rates in (pricing or {}, *(pricing or {}).get("tiers", ())):
        yield SetPrice(
            model=model["id"],
            provider=provider,
            free=bool(model["free"]),
            above_prompt_tokens=rates.get("above_prompt_tokens"),
            **{
                told: _of_a_token(rates.get(name), is_per_million=bool(pricing and pricing["per_million"]))
                for told, name in (
                    ("prompt_usd", "prompt"),
                    ("completion_usd", "completion"),
                    ("input_cache_read_usd", "cached_prompt"),
                    ("input_cache_write_usd", "cache_write"),
                )
            },
            request_usd=rates.get("request") or None,
            image_usd=rates.get("image") or None,
        )


def _of_a_token(text: str | None, *, is_per_million: bool) -> str | None:
    """The configuration has prices of a token, or of a million."""
    if not text:
        return None
    return f"{Decimal(text).scaleb(-6):f}" if is_per_million else text
