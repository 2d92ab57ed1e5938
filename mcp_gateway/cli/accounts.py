"""`mcp-gateway accounts`: accounts and their money."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand

from mcp_gateway.cli.budgets import check_zone
from mcp_gateway.cli.desk import (
    LISTED_CHARS,
    AccountArgument,
    ConfigOption,
    DataDirOption,
    JsonOption,
    QuietOption,
    after_days,
    amount,
    answer,
    any_amount,
    at_desk,
    fail,
    seconds,
)
from mcp_gateway.cli.limits import AccountLimitOption, limits_given, limits_in_words
from mcp_gateway.cli.webhook import change_webhook
from mcp_gateway.core.gateway import Desk
from mcp_gateway.core.identity.accounts import Account, in_percent, margin_of
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.ledger.budgets import SetZone
from mcp_gateway.core.ledger.by_hand import HandEntry
from mcp_gateway.core.ledger.entries import HeldOf
from mcp_gateway.core.ledger.statement import LedgerTransaction
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.text import shown

app = typer.Typer(help="Accounts and their money.", no_args_is_help=True)

_SHOWN_MOVES = 10
_NEGATIVE = re.compile(r"-\.?[0-9][0-9.]*")

ReferenceOption = Annotated[
    str | None, typer.Option(help="What it is for: the same one again changes nothing. Left out: a new one.")
]
NoteOption = Annotated[str | None, typer.Option(help="A line for people, kept with the entry.")]


class TakesNegative(TyperCommand):
    """A command whose last argument may be a negative number, which would be read as an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--" not in args:
            negative = [n for n, word in enumerate(args) if _NEGATIVE.fullmatch(word) and args[n - 1][:2] != "--"]
            args = [word for n, word in enumerate(args) if n not in negative] + ["--"] + [args[n] for n in negative]
        return super().parse_args(ctx, args)


@app.command("create")
def create_account(
    name: Annotated[str, typer.Argument(help="A name for people.")],
    credit: Annotated[str | None, typer.Option(help="USD to begin with, such as 5 or 12.50.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    quiet: QuietOption = False,
    is_json: JsonOption = False,
) -> None:
    """Make an account."""
    amount_nano = None if credit is None else amount(credit)

    async def work(desk: Desk) -> None:
        account = await desk.accounts.create(name)
        if amount_nano is not None:
            await desk.ledger.credit(account.id, amount_nano, new_id("cli"))
        words = f"account {account.id} ({name}), balance {format_usd(amount_nano or 0)} USD"
        facts = _object_of(account, await _wallet(desk, account.id, {}))  # no request of it runs
        answer(account.id if quiet else words, facts, is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("list")
def list_accounts(config: ConfigOption = None, data_dir: DataDirOption = None, is_json: JsonOption = False) -> None:
    """Show all accounts with their balances in USD, and the limits that were set for them."""

    async def work(desk: Desk) -> None:
        accounts = await desk.accounts.list()
        held = await desk.server.held()
        listed = [(account, await _wallet(desk, account.id, held)) for account in accounts]
        head = f"{'id':<38}{'balance':>16}{'granted':>16}{'held':>16}  name"
        words = "\n".join([head, *(_line(account, wallet) for account, wallet in listed)])
        answer(words, [_object_of(account, wallet) for account, wallet in listed], is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("show")
def show_account(
    account: AccountArgument, config: ConfigOption = None, data_dir: DataDirOption = None, is_json: JsonOption = False
) -> None:
    """Show one account: its money, its keys, its limits and the last entries of its ledger."""

    async def work(desk: Desk) -> None:
        found = await desk.accounts.get(account)
        wallet = await _wallet(desk, account, await desk.server.held())
        states = [key.state_at(now_ms()) for key in await desk.keys.list(account)]
        moves = await desk.statement.page(account, before=None, limit=_SHOWN_MOVES, only_moves=True)
        notes = await desk.statement.notes(moves)
        facts = {
            **_object_of(found, wallet),
            "keys": {"live": states.count("live"), "all": len(states)},
            "last_entries": [_move_object(move, notes.get(move)) for move in moves],
        }
        lines = (
            f"account {account} ({shown(found.name, LISTED_CHARS)}){'' if found.is_active else ', deactivated'}",
            f"balance {format_usd(wallet.spendable_nano)} USD, of it granted {format_usd(wallet.granted_nano)};"
            f" held for requests {_held(wallet)}{_leased(wallet, ', set aside for leases ')}",
            f"keys: {states.count('live')} live, {len(states)} in all",
            f"margin: {in_percent(found.margin)} %{_switched_on(found, '; ')}",
            f"limits: {limits_in_words(found.limits) or 'the highest among its keys'}",
            *(_move_line(move, notes.get(move)) for move in moves),
        )
        answer("\n".join(lines), facts, is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("change")
def change_account(
    account: AccountArgument,
    name: Annotated[str | None, typer.Option(help="Another name for people.")] = None,
    margin: Annotated[
        str | None, typer.Option(help="Percent above the prices of the settings, such as 20 or 12.5; 0: none.")
    ] = None,
    zone: Annotated[
        str | None, typer.Option(help="In which the days of its budgets begin, such as Europe/Berlin; else UTC.")
    ] = None,
    proxy: Annotated[
        bool | None, typer.Option("--proxy/--no-proxy", help="Whether its keys may ask providers by their own paths.")
    ] = None,
    attribution: Annotated[
        bool | None,
        typer.Option("--attribution/--no-attribution", help="Whether its requests' users and tags are recorded."),
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Change an account's name, its margin, where its days begin, what it may ask and what is recorded of it.

    Requests that run keep what they were held for; a running server decides the zone.
    """
    margin_given = None if margin is None else _margin(margin)
    if zone is not None:
        check_zone(zone)

    async def work(desk: Desk) -> None:
        await desk.accounts.change(account, name=name, margin=margin_given, may_proxy=proxy, is_attributed=attribution)
        changed = await desk.accounts.get(account)
        if zone is not None:
            await desk.server.decide(SetZone(account, zone))
        days = "" if zone is None else f", days in {zone}"
        named = "" if name is None else f" ({shown(changed.name, LISTED_CHARS)})"
        words = f"account {account}{named}, margin {in_percent(changed.margin)} %{_switched_on(changed, ', ')}{days}"
        facts = await _object(desk, changed) | ({} if zone is None else {"zone": zone})
        answer(words, facts, is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("credit", cls=TakesNegative)
def credit_account(
    account: AccountArgument,
    usd: Annotated[str, typer.Argument(help="USD to add, such as 5 or 12.50.")],
    grant: Annotated[bool, typer.Option("--grant", help="A gift: used before what was paid.")] = False,
    expires_in_days: Annotated[
        float | None, typer.Option(help="With --grant: what is left of it then is taken back.", min=0)
    ] = None,
    reference: ReferenceOption = None,
    note: NoteOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    quiet: QuietOption = False,
    is_json: JsonOption = False,
) -> None:
    """Add money to an account."""
    amount_nano = amount(usd)
    if expires_in_days is not None and not grant:
        fail("--expires-in-days goes with --grant")

    entry = HandEntry(
        account_id=account,
        kind="grant" if grant else "credit",
        amount_nano=amount_nano,
        reference=reference,
        note=note,
        expires_at_ms=after_days(expires_in_days),
    )
    _enter(config, data_dir, entry, is_quiet=quiet, is_json=is_json)


@app.command("adjust", cls=TakesNegative)
def adjust_account(
    account: AccountArgument,
    usd: Annotated[str, typer.Argument(help="USD to add, or with a minus to take away, such as -5 or 12.50.")],
    reference: ReferenceOption = None,
    note: NoteOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    quiet: QuietOption = False,
    is_json: JsonOption = False,
) -> None:
    """Correct an account's balance, below nothing too, by an entry `adjustment` in its ledger.

    Money is taken away by the server, where one runs; where it does not answer within 10 s, nothing is changed, and the
    command ends with 3.
    """
    amount_nano = any_amount(usd)
    if not amount_nano:
        fail("an adjustment of nothing changes nothing")

    entry = HandEntry(account_id=account, kind="adjustment", amount_nano=amount_nano, reference=reference, note=note)
    _enter(config, data_dir, entry, is_quiet=quiet, is_json=is_json)


@app.command("limits")
def limit_account(
    account: AccountArgument,
    requests_per_minute: AccountLimitOption = None,
    requests_per_day: AccountLimitOption = None,
    tokens_per_minute: AccountLimitOption = None,
    in_flight: AccountLimitOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Set what all keys of an account may use together, and show what was set."""
    asked = limits_given(requests_per_minute, requests_per_day, tokens_per_minute, in_flight)

    async def work(desk: Desk) -> None:
        if asked:
            await desk.accounts.change(account, limits=asked)
        limits = (await desk.accounts.get(account)).limits
        words = f"account {account}: {limits_in_words(limits) or 'the highest limits among its keys'}"
        answer(words, {"id": account, "limits": limits.as_object()}, is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("auto-topup")
def switch_auto_topup(
    account: AccountArgument,
    switch: Annotated[str | None, typer.Argument(help="off: not any more, until the account sets it anew.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Show how an account is topped up by itself, or switch that off.

    A payment that Stripe was asked for already may still arrive, and is credited then.
    """
    if switch not in (None, "off"):
        fail("an account switches its auto top-up on itself; this command takes `off`, or nothing to show it")

    async def work(desk: Desk) -> None:
        await desk.accounts.get(account)
        if switch is not None:
            await desk.auto_topups.switch_off(account)
        standing = await desk.auto_topups.of(account)
        answer(f"account {account}: {standing.in_words()}", {"id": account, **standing.as_object()}, is_json=is_json)

    at_desk(config, data_dir, work)


app.command("webhook")(change_webhook)


@app.command("deactivate")
def deactivate_account(
    account: AccountArgument, config: ConfigOption = None, data_dir: DataDirOption = None, is_json: JsonOption = False
) -> None:
    """Switch all keys of an account off."""
    at_desk(config, data_dir, lambda desk: _switch(desk, account, is_active=False, is_json=is_json))


@app.command("activate")
def activate_account(
    account: AccountArgument, config: ConfigOption = None, data_dir: DataDirOption = None, is_json: JsonOption = False
) -> None:
    """Switch the keys of a deactivated account on again."""
    at_desk(config, data_dir, lambda desk: _switch(desk, account, is_active=True, is_json=is_json))


async def _switch(desk: Desk, account: str, *, is_active: bool, is_json: bool) -> None:
    await desk.accounts.change(account, is_active=is_active)
    words = f"account {account} is {'active' if is_active else 'deactivated'}"
    answer(words, await _object(desk, await desk.accounts.get(account)), is_json=is_json)


def _enter(config: Path | None, data_dir: Path | None, entry: HandEntry, *, is_quiet: bool, is_json: bool) -> None:
    """Enter money, and say what that came to."""

    async def work(desk: Desk) -> None:
        account = (await desk.accounts.get(entry.account_id)).id
        reference, is_new = await desk.cashier.enter(entry)
        balance = format_usd((await _wallet(desk, account, await desk.server.held())).spendable_nano)
        words = f"account {account}, balance {balance} USD{'' if is_new else '; this entry stood already'}"
        facts = {"account": account, "kind": entry.kind, "reference": reference}
        facts |= {"amount_usd": format_usd(entry.amount_nano), "balance_usd": balance}
        answer(account if is_quiet else words, {**facts, "was_applied_before": not is_new}, is_json=is_json)

    at_desk(config, data_dir, work)


class _Wallet(NamedTuple):
    """In nano-USD; `held_nano` is None where no server says what requests hold, which the others then include."""

    paid_nano: int
    granted_nano: int
    held_nano: int | None
    leased_nano: int

    @property
    def spendable_nano(self) -> int:
        return self.paid_nano + self.granted_nano


async def _wallet(desk: Desk, account_id: str, all_held: Mapping[str, HeldOf] | None) -> _Wallet:
    balance = await desk.ledger.balance(account_id)
    held = (all_held or {}).get(account_id, HeldOf())
    held_nano = None if all_held is None else sum(held)
    paid_nano, granted_nano = balance.paid_nano - held.paid_nano, balance.granted_nano - held.granted_nano
    return _Wallet(paid_nano, granted_nano, held_nano, balance.leased_nano - held.leased_nano)


def _held(wallet: _Wallet) -> str:
    return "unknown" if wallet.held_nano is None else format_usd(wallet.held_nano)


def _leased(wallet: _Wallet, words: str) -> str:
    """Nothing where nothing is set aside."""
    return f"{words}{format_usd(wallet.leased_nano)}" if wallet.leased_nano else ""


async def _object(desk: Desk, account: Account) -> dict[str, Any]:
    return _object_of(account, await _wallet(desk, account.id, await desk.server.held()))


def _object_of(account: Account, wallet: _Wallet) -> dict[str, Any]:
    return {
        "id": account.id,
        "name": account.name,
        "active": account.is_active,
        "created_at": seconds(account.created_at_ms),
        "balance_usd": format_usd(wallet.spendable_nano),
        "granted_usd": format_usd(wallet.granted_nano),
        "held_usd": None if wallet.held_nano is None else format_usd(wallet.held_nano),
        "leased_usd": format_usd(wallet.leased_nano),
        "margin_percent": in_percent(account.margin),
        "proxy": account.may_proxy,
        "attribution": account.is_attributed,
        "limits": account.limits.as_object(),
    }


def _margin(text: str) -> int:
    """Hundredths of a percent."""
    try:
        return margin_of(text)
    except ValueError as fault:
        fail(f"--margin {fault}")


def _switched_on(account: Account, before: str = "") -> str:
    """What few accounts have, each behind `before`."""
    told = {"may ask /proxy": account.may_proxy, "requests attributed": account.is_attributed}
    return "".join(f"{before}{words}" for words, is_on in told.items() if is_on)


def _line(account: Account, wallet: _Wallet) -> str:
    amounts = (format_usd(wallet.spendable_nano), format_usd(wallet.granted_nano), _held(wallet))
    columns = "".join(f"{amount:>16}" for amount in amounts)
    state = "" if account.is_active else "(deactivated)"
    margin = f"margin {in_percent(account.margin)} %" if account.margin else ""
    name, leased = shown(account.name, LISTED_CHARS), _leased(wallet, "leased ")
    told = (name, state, margin, _switched_on(account, " ").strip(), leased, limits_in_words(account.limits))
    notes = " ".join(filter(None, told))
    return f"{account.id:<38}{columns}  {notes}"


def _move_object(move: LedgerTransaction, note: str | None) -> dict[str, Any]:
    return {
        "created_at": seconds(move.created_at_ms),
        "kind": move.kind,
        "amount_usd": format_usd(move.amount_nano),
        "reference": move.reference,
        "note": note,
    }


def _move_line(move: LedgerTransaction, note: str | None) -> str:
    at = f"{datetime.fromtimestamp(move.created_at_ms / 1000, UTC):%Y-%m-%d %H:%M:%SZ}"
    line = f"{at}  {move.kind:<18}{format_usd(move.amount_nano):>16}  {shown(move.reference)}"
    return line if note is None else f"{line}  {shown(note, LISTED_CHARS)}"
