"""`mcp-gateway budgets`: what keys, groups of them and accounts may spend in a window of time."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import typer

from mcp_gateway.cli.desk import (
    ConfigOption,
    DataDirOption,
    JsonOption,
    QuietOption,
    after,
    answer,
    at_desk,
    fail,
)
from mcp_gateway.core.gateway import Desk
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.ledger.budgets import (
    BUDGET_WINDOWS,
    Budget,
    BudgetGroup,
    BudgetStanding,
    BudgetWindow,
    EndBudget,
    MakeBudgets,
    check_group_name,
    in_words,
    parse_budget,
)
from mcp_gateway.core.ledger.ledger import check_can_own
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.text import shown
from mcp_gateway.core.zones import zone_of

app = typer.Typer(help="What keys, groups of them and accounts may spend in a window of time.", no_args_is_help=True)

BudgetOption = Annotated[
    list[str] | None,
    typer.Option("--budget", help=f"What it may spend, such as '5 USD/day' ({', '.join(BUDGET_WINDOWS)}); repeatable."),
]
LeaseOption = Annotated[
    str | None,
    typer.Option("--lease", help="So much is set aside for it at once, such as '5 USD', until --expires-in is over."),
]


@app.command("create")
def create_budgets(
    holder: Annotated[
        str, typer.Argument(help="A group's name; or the id of a key or an account, key_... or acc_...", metavar="NAME")
    ],
    account: Annotated[str | None, typer.Option("--account", help="Whose group it is; a new name makes one.")] = None,
    budget: BudgetOption = None,
    lease: LeaseOption = None,
    expires_in: Annotated[
        str | None, typer.Option(help="When a lease ends, such as 30m, 12h or 7d.", metavar="N(m|h|d)")
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    quiet: QuietOption = False,
    is_json: JsonOption = False,
) -> None:
    """Bound what a key, with those it makes, a group of keys or an account may spend; a running server decides it."""
    asked = budgets_given(budget, lease, after(expires_in))
    if not asked:
        fail("say with --budget or --lease what it may spend, such as --budget '5 USD/day'")

    async def work(desk: Desk) -> None:
        group = None if account is None else await _group(desk, account, holder)
        account_id, above = await _place_of(desk, holder) if group is None else (group.account_id, ())
        check_can_own(account_id)
        made = budgets_of(account_id, holder if group is None else group.id, asked)
        await desk.server.decide(MakeBudgets(made, group, above))
        words = [one.id if quiet else f"budget {one.id} of {holder}: {in_words(one)}{_lease_end(one)}" for one in made]
        standings = await desk.ledger.budgets(account_id)
        facts = [budget_object(one) for one in standings if one.budget.id in {budget.id for budget in made}]
        answer("\n".join(words), facts, is_json=is_json)

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
        answer("\n".join([head, *map(_line, standings)]), [budget_object(one) for one in standings], is_json=is_json)

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


class GivenBudget(NamedTuple):
    """Nano-USD, their window, and of a lease when it ends."""

    amount_nano: int
    window: BudgetWindow
    lease_ends_at_ms: int | None = None


def budgets_of(account_id: str, holder: str, asked: Sequence[GivenBudget]) -> tuple[Budget, ...]:
    """New ones of a holder's."""
    return tuple(
        Budget(
            new_id("bud"), account_id, holder, one.amount_nano, one.window, lease_ends_at_ms=one.lease_ends_at_ms
        )
        for one in asked
    )  # fmt: skip


def budgets_given(asked: Sequence[str] | None, lease: str | None, ends_at_ms: int | None) -> list[GivenBudget]:
    """What options say, once it is right."""
    if lease is not None and ends_at_ms is None:
        fail("a lease has an end: say when with --expires-in, such as --expires-in 7d")
    try:
        given = [GivenBudget(*parse_budget(text)) for text in asked or ()]
        return given if lease is None else [*given, GivenBudget(*parse_budget(f"{lease}/total"), ends_at_ms)]
    except ValueError as error:
        fail(str(error))


def check_zone(name: str) -> None:
    try:
        zone_of(name)
    except ValueError as error:
        fail(str(error))


async def _place_of(desk: Desk, holder: str) -> tuple[str, tuple[str, ...]]:
    """The account of a holder, and who is above it there."""
    if holder.startswith("acc_"):
        return holder, ()
    if not holder.startswith("key_"):
        fail(f"'{shown(holder)}' is the id of no key or account; for a group of keys say with --account whose it is")
    key = await desk.keys.get(holder)
    return key.account_id, key.above


async def _group(desk: Desk, account_id: str, name: str) -> BudgetGroup:
    """The one of this name, or a new one."""
    check_group_name(name, "NAME")
    await desk.accounts.get(account_id)
    return await desk.ledger.group(account_id, name) or BudgetGroup(new_id("grp"), account_id, name)


def _line(standing: BudgetStanding) -> str:
    budget = standing.budget
    amounts = f"{format_usd(standing.spent_nano):>16}{format_usd(budget.amount_nano):>16}"
    end = _lease_end(budget) or _until(standing.span.ends_at_ms)
    end += ", over" if standing.is_over else ""
    holder = budget.holder if budget.group is None else shown(budget.group)
    return f"{budget.id:<38}{holder:<38}{amounts}  {budget.window}{end}"


def _lease_end(budget: Budget) -> str:
    return "" if budget.lease_ends_at_ms is None else f"{_until(budget.lease_ends_at_ms)} (lease)"


def _until(at_ms: int | None) -> str:
    return "" if at_ms is None else f" until {datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M}Z"


def budget_object(standing: BudgetStanding) -> dict[str, Any]:
    """What requests hold of it, the running server alone knows."""
    told = standing.as_object().model_dump(exclude={"held_usd", "left_usd"})
    return {"account": standing.budget.account_id, "holder": standing.budget.holder} | told
