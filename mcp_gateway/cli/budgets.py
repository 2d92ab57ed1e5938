"""`mcp-gateway budgets`: what keys and accounts may spend in a window of time."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from mcp_gateway.cli.desk import ConfigOption, DataDirOption, JsonOption, QuietOption, answer, at_desk, fail
from mcp_gateway.core.gateway import Desk
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.ledger.budgets import (
    BUDGET_WINDOWS,
    Budget,
    BudgetStanding,
    BudgetWindow,
    EndBudget,
    MakeBudget,
    in_words,
    parse_budget,
    zone_of,
)
from mcp_gateway.core.ledger.ledger import check_can_own
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.text import shown

app = typer.Typer(help="What keys and accounts may spend in a window of time.", no_args_is_help=True)

BudgetOption = Annotated[
    list[str] | None,
    typer.Option("--budget", help=f"What it may spend, such as '5 USD/day' ({', '.join(BUDGET_WINDOWS)}); repeatable."),
]


@app.command("create")
def create_budget(
    holder: Annotated[str, typer.Argument(help="The id of a key or an account, key_... or acc_...")],
    budget: Annotated[str, typer.Argument(help="An amount and a window, such as '5 USD/day'.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    quiet: QuietOption = False,
    is_json: JsonOption = False,
) -> None:
    """Bound what a key, with those that it makes, or an account may spend; a running server decides it."""
    (asked,) = budgets_given([budget])

    async def work(desk: Desk) -> None:
        account_id = holder if holder.startswith("acc_") else (await desk.keys.get(holder)).account_id
        check_can_own(account_id)
        made = Budget(new_id("bud"), account_id, holder, *asked)
        await desk.server.decide(MakeBudget(made))
        words = f"budget {made.id} of {holder}: {in_words(made)}"
        answer(made.id if quiet else words, _object(await _standing(desk, made)), is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("list")
def list_budgets(
    account: Annotated[str, typer.Option("--account", help="The account's id, acc_...")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Show an account's budgets, and what was spent of each in its window."""

    async def work(desk: Desk) -> None:
        await desk.accounts.get(account)
        standings = await desk.ledger.budgets(account)
        head = f"{'id':<38}{'of':<38}{'spent':>16}{'amount':>16}  window"
        answer("\n".join([head, *map(_line, standings)]), [_object(one) for one in standings], is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("end")
def end_budget(
    account: Annotated[str, typer.Option("--account", help="The account's id, acc_...")],
    budget: Annotated[str, typer.Argument(help="The budget's id, bud_...")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Let a budget bound nothing any more."""

    async def work(desk: Desk) -> None:
        if not await desk.server.decide(EndBudget(account, budget, now_ms())):
            fail(f"{shown(account)} has no open budget '{shown(budget)}'")
        answer(f"budget {budget} has ended", {"id": budget, "account": account}, is_json=is_json)

    at_desk(config, data_dir, work)


def budgets_given(asked: Sequence[str] | None) -> list[tuple[int, BudgetWindow]]:
    """Amounts in nano-USD with their windows."""
    try:
        return [parse_budget(text) for text in asked or ()]
    except ValueError as error:
        fail(str(error))


def check_zone(name: str) -> None:
    try:
        zone_of(name)
    except ValueError as error:
        fail(str(error))


async def _standing(desk: Desk, budget: Budget) -> BudgetStanding:
    return next(one for one in await desk.ledger.budgets(budget.account_id) if one.budget.id == budget.id)


def _line(standing: BudgetStanding) -> str:
    budget = standing.budget
    amounts = f"{format_usd(standing.spent_nano):>16}{format_usd(budget.amount_nano):>16}"
    until = standing.span.ends_at_ms
    end = "" if until is None else f" until {datetime.fromtimestamp(until / 1000, UTC):%Y-%m-%d %H:%M}Z"
    return f"{budget.id:<38}{budget.holder:<38}{amounts}  {budget.window}{end}"


def _object(standing: BudgetStanding) -> dict[str, Any]:
    """What requests hold of it, the running server alone knows."""
    told = standing.as_object().model_dump(exclude={"held_usd", "left_usd"})
    return {"account": standing.budget.account_id, "holder": standing.budget.holder} | told
