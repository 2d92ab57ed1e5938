"""`mcp-gateway revenue`: what was earned in a month, by account and model."""

from typing import Annotated, Any

import typer

from mcp_gateway.cli.desk import LISTED_CHARS, ConfigOption, DataDirOption, JsonOption, answer, at_desk, fail
from mcp_gateway.core.gateway import Desk
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.ledger.months import Earned, Month
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.text import shown


def show_revenue(
    month: Annotated[str | None, typer.Option(help="A month by UTC, as in 2026-01; otherwise the running one.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Tell what requests were charged in a month, less what was given back, and how much of it had been granted."""
    asked = _month(month)

    async def work(desk: Desk) -> None:
        earned = await desk.months.earned(asked)
        facts = {
            "month": asked.name,
            "revenue_usd": format_usd(sum(one.revenue_nano for one in earned)),
            "granted_usd": format_usd(sum(one.granted_nano for one in earned)),
            "by_account_and_model": [_object(one) for one in earned],
        }
        words = f"{asked.name}: {facts['revenue_usd']} USD, of which {facts['granted_usd']} USD had been granted"
        answer("\n".join((words, *map(_line, earned))), facts, is_json=is_json)

    at_desk(config, data_dir, work)


def _month(name: str | None) -> Month:
    if name is None:
        return Month.at(now_ms())
    try:
        return Month.named(name)
    except ValueError:
        fail(f"'{shown(name)}' is no month: write it as in 2026-01")


def _object(one: Earned) -> dict[str, Any]:
    return {
        "account_id": one.account_id,
        "model": one.model,
        "requests": one.requests,
        "revenue_usd": format_usd(one.revenue_nano),
        "granted_usd": format_usd(one.granted_nano),
    }


def _line(one: Earned) -> str:
    model = shown(one.model or "(not recorded)", LISTED_CHARS)
    return f"{one.account_id}  {format_usd(one.revenue_nano):>18} USD  {one.requests:>9}  {model}"
