"""The roof: `mcp-gateway serve | accounts | keys | ledger | bridge`; the only file here that knows http_api."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import Error as DatabaseError
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from bridge.mcp_stdio_bridge import main as run_bridge
from mcp_gateway import __version__
from mcp_gateway.core.caller import SCOPES, KeyScope
from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.config import ConfigError, Settings, load_settings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.gateway import DATABASE, Desk, open_desk
from mcp_gateway.core.identity.keys import Key
from mcp_gateway.core.identity.own_limits import DEFAULT, LIMIT_NAMES, Limit, OwnLimits
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.ledger.checkpoint import LedgerBroken
from mcp_gateway.core.ledger.pending import PENDING, ForeignPending
from mcp_gateway.core.money import format_usd, parse_usd
from mcp_gateway.core.observe.logs import configure_logging
from mcp_gateway.core.store.backup import back_up
from mcp_gateway.core.store.migrations import SchemaTooNew
from mcp_gateway.core.store.sole import AlreadyServed
from mcp_gateway.core.store.upgrade import ServedByOlder
from mcp_gateway.core.text import shown

T = TypeVar("T")

app = typer.Typer(
    name="mcp-gateway",
    help="The gateway that agents call: MCP tools and an OpenAI-compatible API in front of vLLM.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
accounts = typer.Typer(help="Accounts and their money.", no_args_is_help=True)
keys = typer.Typer(help="API keys of accounts.", no_args_is_help=True)
ledger = typer.Typer(help="The ledger.", no_args_is_help=True)
app.add_typer(accounts, name="accounts")
app.add_typer(keys, name="keys")
app.add_typer(ledger, name="ledger")

_MOST_DIGITS = 19
"""Of a number in the database; Python refuses to read one of thousands."""
_MAX_DAYS = 100_000
_LISTED_CHARS = 200
"""Of a name; older versions took names of any kind, which must not move an operator's cursor."""

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings file; otherwise ./gateway.toml where there is one.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print the bare id or key alone.")]


def main() -> None:
    """The console script."""
    app()


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


# serve


@app.command()
def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    workers: Annotated[int, typer.Option(help="Processes; one, for now.")] = 1,
) -> None:
    """Start the gateway."""
    if workers != 1:
        _fail("limits and MCP sessions live in the process, so --workers must be 1")
    given = {"GATEWAY_HOST": host, "GATEWAY_PORT": None if port is None else str(port)}
    settings = _settings(config, {name: value for name, value in given.items() if value is not None})
    configure_logging(settings.log_level)
    from http_api.program import run  # noqa: PLC0415 - the server's imports take longer than any other command

    _run(run(settings))


# limits, of keys and of accounts

LimitOption = Annotated[
    str | None, typer.Option(help="A number, or none for no limit; left out: the configured default.", metavar="N|none")
]
AccountLimitOption = Annotated[
    str | None,
    typer.Option(
        help="A number; none for no limit; default for the highest among the keys. Left out: as it was.",
        metavar="N|none|default",
    ),
]


def _limits(*given: str | None) -> dict[str, Limit]:
    """What is given, in the order of LIMIT_NAMES."""
    return {name: _limit(name, text) for name, text in zip(LIMIT_NAMES, given, strict=True) if text is not None}


def _limit(name: str, text: str) -> Limit:
    if text.lower() in ("none", "default"):
        return None if text.lower() == "none" else DEFAULT
    if not text.isdecimal() or len(text) > _MOST_DIGITS or not 1 <= int(text) < 2**63:
        _fail(f"--{name.replace('_', '-')} takes a whole number from 1, none or default; not '{shown(text)}'")
    return int(text)


def _own_limits(limits: OwnLimits) -> str:
    own = {name: limit for name in LIMIT_NAMES if (limit := getattr(limits, name)) is not DEFAULT}
    return ", ".join(f"{name} {'none' if limit is None else limit}" for name, limit in own.items())


# accounts


@accounts.command("create")
def create_account(
    name: Annotated[str, typer.Argument(help="A name for people.")],
    credit: Annotated[str | None, typer.Option(help="USD to begin with, such as 5 or 12.50.")] = None,
    config: ConfigOption = None,
    quiet: QuietOption = False,
) -> None:
    """Make an account."""
    amount_nano = None if credit is None else _amount(credit)

    async def work(desk: Desk) -> None:
        account = await desk.accounts.create(name)
        if amount_nano is not None:
            await desk.ledger.credit(account.id, amount_nano, new_id("cli"))
        typer.echo(
            account.id if quiet else f"account {account.id} ({name}), balance {format_usd(amount_nano or 0)} USD"
        )

    _at_desk(config, work)


@accounts.command("list")
def list_accounts(config: ConfigOption = None) -> None:
    """Show all accounts with their balances in USD, and the limits that were set for them."""

    async def work(desk: Desk) -> None:
        typer.echo(f"{'id':<38}{'balance':>16}{'granted':>16}{'held':>16}  name")
        for account in await desk.accounts.list():
            balance = await desk.ledger.balance(account.id)
            amounts = (balance.spendable_nano, balance.granted_nano, balance.held_nano)
            columns = "".join(f"{format_usd(amount):>16}" for amount in amounts)
            state = "" if account.is_active else "(deactivated)"
            notes = " ".join(filter(None, (shown(account.name, _LISTED_CHARS), state, _own_limits(account.limits))))
            typer.echo(f"{account.id:<38}{columns}  {notes}")

    _at_desk(config, work)


@accounts.command("credit")
def credit_account(
    account: Annotated[str, typer.Argument(help="The account's id, acc_...")],
    usd: Annotated[str, typer.Argument(help="USD to add, such as 5 or 12.50.")],
    grant: Annotated[bool, typer.Option("--grant", help="A gift: used before what was paid.")] = False,
    expires_in_days: Annotated[
        float | None, typer.Option(help="With --grant: what is left of it then is taken back.", min=0)
    ] = None,
    config: ConfigOption = None,
    quiet: QuietOption = False,
) -> None:
    """Add money to an account."""
    amount_nano = _amount(usd)
    if expires_in_days is not None and not grant:
        _fail("--expires-in-days goes with --grant")

    async def work(desk: Desk) -> None:
        await desk.accounts.get(account)
        if grant:
            expires_at_ms = _after_days(expires_in_days)
            await desk.ledger.grant(account, amount_nano, new_id("cli"), expires_at_ms=expires_at_ms)
        else:
            await desk.ledger.credit(account, amount_nano, new_id("cli"))
        balance = format_usd((await desk.ledger.balance(account)).spendable_nano)
        typer.echo(account if quiet else f"account {account}, balance {balance} USD")

    _at_desk(config, work)


@accounts.command("limits")
def limit_account(
    account: Annotated[str, typer.Argument(help="The account's id, acc_...")],
    requests_per_minute: AccountLimitOption = None,
    requests_per_day: AccountLimitOption = None,
    tokens_per_minute: AccountLimitOption = None,
    in_flight: AccountLimitOption = None,
    config: ConfigOption = None,
) -> None:
    """Set what all keys of an account may use together, and show what was set."""
    asked = _limits(requests_per_minute, requests_per_day, tokens_per_minute, in_flight)

    async def work(desk: Desk) -> None:
        limits = replace((await desk.accounts.get(account)).limits, **asked)
        if asked:
            await desk.accounts.set_limits(account, limits)
        typer.echo(f"account {account}: {_own_limits(limits) or 'the highest limits among its keys'}")

    _at_desk(config, work)


@accounts.command("deactivate")
def deactivate_account(
    account: Annotated[str, typer.Argument(help="The account's id, acc_...")], config: ConfigOption = None
) -> None:
    """Switch all keys of an account off."""
    _at_desk(config, lambda desk: desk.accounts.set_active(account, is_active=False))


@accounts.command("activate")
def activate_account(
    account: Annotated[str, typer.Argument(help="The account's id, acc_...")], config: ConfigOption = None
) -> None:
    """Switch the keys of a deactivated account on again."""
    _at_desk(config, lambda desk: desk.accounts.set_active(account, is_active=True))


# keys


@keys.command("create")
def create_key(
    account: Annotated[str, typer.Option("--account", help="The account's id, acc_...")],
    name: Annotated[str, typer.Option(help="A name for people.")] = "",
    test: Annotated[bool, typer.Option("--test", help="A key that the demo answers and that is never billed.")] = False,
    requests_per_minute: LimitOption = None,
    requests_per_day: LimitOption = None,
    tokens_per_minute: LimitOption = None,
    in_flight: LimitOption = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="What it may be used for; to be repeated; left out: everything.", metavar="|".join(SCOPES)),
    ] = None,
    expires_in_days: Annotated[float | None, typer.Option(help="Refuse it from then on.", min=0)] = None,
    config: ConfigOption = None,
    quiet: QuietOption = False,
) -> None:
    """Make an API key; it is shown this once."""
    scopes = None if not scope else [_scope(name) for name in scope]
    expires_at_ms = _after_days(expires_in_days)
    limits = OwnLimits(**_limits(requests_per_minute, requests_per_day, tokens_per_minute, in_flight))

    async def work(desk: Desk) -> None:
        key, raw = await desk.keys.create(
            account, name=name, is_test=test, limits=limits, scopes=scopes, expires_at_ms=expires_at_ms
        )
        typer.echo(raw if quiet else f"key {key.id} of {account}; keep it, it is not shown again:\n{raw}")

    _at_desk(config, work)


@keys.command("list")
def list_keys(
    account: Annotated[str | None, typer.Option("--account", help="Only this account's.")] = None,
    config: ConfigOption = None,
) -> None:
    """Show keys by their first characters, with the scopes, ends and limits that are not the usual ones."""

    async def work(desk: Desk) -> None:
        typer.echo(f"{'id':<38}{'account':<38}{'key':<18}{'state':<9}name")
        for key in await desk.keys.list(account):
            notes = " ".join(filter(None, (shown(key.name, _LISTED_CHARS), _own_rights(key), _own_limits(key.limits))))
            state = key.state_at(now_ms())
            typer.echo(f"{key.id:<38}{key.account_id:<38}{key.prefix + '...':<18}{state:<9}{notes}")

    _at_desk(config, work)


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="The key's id, key_...")],
    with_made: Annotated[bool, typer.Option("--with-made", help="And each key that it made, or one of those.")] = False,
    config: ConfigOption = None,
    quiet: QuietOption = False,
) -> None:
    """Make a key useless, within a second also for a running server."""

    async def work(desk: Desk) -> None:
        made = ""
        if with_made:
            made = f", and {(await desk.keys.revoke_with_made(key))[1]} that it made"
        else:
            await desk.keys.revoke(key)
        typer.echo(key if quiet else f"key {key} is revoked{made}")

    _at_desk(config, work)


def _scope(name: str) -> KeyScope:
    scope = next((scope for scope in SCOPES if scope == name), None)
    if scope is None:
        _fail(f"--scope takes {', '.join(SCOPES)}; not '{shown(name)}'")
    return scope


def _own_rights(key: Key) -> str:
    """Nothing for a key that may be used for everything and for ever."""
    is_usual = key.is_test or len(key.scopes) == len(SCOPES)
    scopes = "" if is_usual else f"for {' and '.join(scope for scope in SCOPES if scope in key.scopes)}"
    end = "" if key.expires_at_ms is None else f"until {datetime.fromtimestamp(key.expires_at_ms / 1000, UTC):%Y-%m-%d}"
    return f"{scopes} {end}".strip()


# ledger


@ledger.command("check")
def check_ledger(config: ConfigOption = None) -> None:
    """Hold every balance against all entries; exits with 1 where they differ."""

    async def work(desk: Desk) -> None:
        discrepancies = await desk.ledger.check()
        for discrepancy in discrepancies:
            typer.echo(shown(discrepancy, 1000), err=True)
        if discrepancies:
            raise typer.Exit(1)
        typer.echo("every balance equals its entries")

    _at_desk(config, work)


# backup


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The new file to write.")],
    config: ConfigOption = None,
) -> None:
    """Copy the database to a new file, safely while the gateway serves."""
    settings = _settings(config)
    if (settings.data_dir / PENDING).exists():
        _fail("settlements wait to be written into the database: start the server once, then back up")
    try:
        back_up(settings.data_dir / DATABASE, file)
    except (OSError, DatabaseError) as error:
        _fail(str(error))
    typer.echo(f"wrote {file}")


# bridge


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def bridge(context: typer.Context) -> None:
    """Connect a desktop client to an MCP server: stdio on this side, HTTP on the other."""
    raise typer.Exit(run_bridge(context.args))


# shared


def _settings(config: Path | None, given: dict[str, str] | None = None) -> Settings:
    try:
        return load_settings(config, {**os.environ, **(given or {})})
    except ConfigError as error:
        _fail(str(error))


def _at_desk(config: Path | None, work: Callable[[Desk], Awaitable[None]]) -> None:
    settings = _settings(config)
    configure_logging("warning")

    async def at_desk() -> None:
        async with open_desk(settings) as desk:
            await work(desk)

    _run(at_desk())


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; what an operator can mend is said in one line, without a traceback."""
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(work)
    except GatewayError as error:
        _fail(error.message)
    except UnicodeEncodeError:
        _fail("an argument is not text: it holds bytes that are no characters")
    except (SchemaTooNew, ServedByOlder) as error:
        _fail(f"{error} (this is {__version__})")
    except (AlreadyServed, ForeignPending, LedgerBroken, DatabaseError, OSError) as error:
        _fail(str(error))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 - not available on Windows

    return uvloop.new_event_loop


def _after_days(days: float | None) -> int | None:
    """Unix milliseconds of a time to come; None where there is none."""
    if days is None:
        return None
    if not 0 <= days <= _MAX_DAYS:
        _fail(f"--expires-in-days takes a number up to {_MAX_DAYS:,}")
    return now_ms() + int(days * DAY_MS)


def _amount(text: str) -> int:
    try:
        amount_nano = parse_usd(text)
    except ValueError as error:
        _fail(str(error))
    if amount_nano <= 0:
        _fail(f"'{shown(text)}' is not more than nothing")
    return amount_nano


def _fail(message: str) -> NoReturn:
    typer.echo(f"mcp-gateway: {message}", err=True)
    raise typer.Exit(2)
