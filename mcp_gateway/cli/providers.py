"""`mcp-gateway providers`: what each provider's own list says of the models that are sold here."""

import asyncio
import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import typer

from mcp_gateway.cli.desk import ConfigOption, DataDirOption, JsonOption, answer, fail, run, settings_of
from mcp_gateway.core.config import ConfigError, Settings
from mcp_gateway.core.provider_keys import read_keys
from mcp_gateway.core.provider_settings import ProviderSettings
from mcp_gateway.core.text import shown
from mcp_gateway.core.upstream.provider_list import Rows, UnreadableList, read_list

app = typer.Typer(help="The providers that models are asked of.", no_args_is_help=True)

State = Literal["right", "unknown", "retired", "unpriced"]
_RETIRED = ("is_deprecated", "deprecated", "shutdown_date", "deprecation", "deprecation_date", "archived")
"""Keys of a row that tell of an end, unless they hold nothing."""


class CheckedModel(NamedTuple):
    """One model at one provider: `right`, or what is wrong with it."""

    model: str
    provider: str
    backend_model: str
    state: State


@app.command("check")
def check_providers(config: ConfigOption = None, data_dir: DataDirOption = None, is_json: JsonOption = False) -> None:
    """Ask each provider for its list, with its key, and say of each model that is sold whether it is there."""
    settings = settings_of(config, data_dir)
    if not settings.providers:
        fail("there is no [[providers]] in the settings")
    run(_check(settings, is_json=is_json))


async def _check(settings: Settings, *, is_json: bool) -> None:
    keys, faults = _keys(settings)
    asked = [one for one in settings.providers if one.name not in faults]
    lists = dict(zip([one.name for one in asked], await _all_lists(asked, keys), strict=True))
    faults |= {name: told for name, told in lists.items() if isinstance(told, str)}
    found = [one for name, told in lists.items() if isinstance(told, dict) for one in _found(settings, name, told)]
    lines = [f"{one.provider}: {one.backend_model} ({one.model}) is {one.state}" for one in found]
    lines += [f"{name}: {fault}" for name, fault in faults.items()]
    facts = {"models": [one._asdict() for one in found], "faults": faults}
    answer("\n".join(lines) or "no model names a provider", facts, is_json=is_json)
    if faults or any(one.state != "right" for one in found):
        raise typer.Exit(1)


def _keys(settings: Settings) -> tuple[dict[str, str], dict[str, str]]:
    """The keys that are there, and what is wrong with the others, by provider."""
    keys: dict[str, str] = {}
    faults: dict[str, str] = {}
    for provider in settings.providers:
        try:
            keys |= read_keys([provider], os.environ)
        except ConfigError as error:
            faults[provider.name] = error.faults[0].partition(": ")[2]
    return keys, faults


async def _all_lists(providers: Sequence[ProviderSettings], keys: Mapping[str, str]) -> list[Rows | str]:
    context = ssl.create_default_context()
    return list(await asyncio.gather(*(_list_of(one, keys.get(one.name), context) for one in providers)))


async def _list_of(provider: ProviderSettings, key: str | None, context: ssl.SSLContext) -> Rows | str:
    """In words why there is none."""
    try:
        return await read_list(provider, key, context)
    except UnreadableList as error:
        return str(error)


def _found(settings: Settings, provider: str, listed: Mapping[str, dict[str, Any]]) -> Iterator[CheckedModel]:
    for entry in settings.models:
        for source in entry.sources:
            if source.provider != provider:
                continue
            row = listed.get(source.backend_model)
            state: State = "right"
            if source.pricing is None and not entry.free:
                state = "unpriced"
            if row is None:
                state = "unknown"
            elif _is_retired(row):
                state = "retired"
            yield CheckedModel(entry.id, provider, shown(source.backend_model), state)


def _is_retired(row: dict[str, Any]) -> bool:
    return row.get("active") is False or any(row.get(name) for name in _RETIRED)
