"""`mcp-gateway keys`: API keys of accounts."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import typer

from mcp_gateway.cli.budgets import BudgetOption, GivenBudget, LeaseOption, budget_object, budgets_given, budgets_of
from mcp_gateway.cli.desk import (
    LISTED_CHARS,
    ConfigOption,
    DataDirOption,
    JsonOption,
    KeyArgument,
    QuietOption,
    after,
    after_days,
    answer,
    at_desk,
    fail,
    lifetime_ms,
    model_names,
    seconds,
)
from mcp_gateway.cli.key_particulars import (
    ChangedNetworksOption,
    ChangedNoteOption,
    ChangedTagOption,
    NetworksOption,
    NoteOption,
    TagOption,
    particulars_given,
    particulars_in_words,
)
from mcp_gateway.cli.key_routing import (
    ChangedEventOption,
    ChangedModeOption,
    ChangedPoolOption,
    EventOption,
    ModeOption,
    PoolOption,
    routing_given,
    routing_in_words,
)
from mcp_gateway.cli.limits import ChangedLimitOption, LimitOption, limits_given, limits_in_words
from mcp_gateway.core.caller import SCOPES, SERVER_LABEL, KeyScope
from mcp_gateway.core.gateway import Desk
from mcp_gateway.core.identity.keys import ANY_SERVER, MAX_KEPT_S, Key
from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.identity.particulars import Particulars
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.ledger.budgets import MakeBudgets
from mcp_gateway.core.observe.history import KeyUse
from mcp_gateway.core.optimization import RoutingDefaults
from mcp_gateway.core.text import shown

app = typer.Typer(help="API keys of accounts.", no_args_is_help=True)


@app.command("create")
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
    expires_in: Annotated[
        str | None,
        typer.Option(help="The same after minutes, hours or days, such as 30m, 12h or 7d.", metavar="N(m|h|d)"),
    ] = None,
    budget: BudgetOption = None,
    lease: LeaseOption = None,
    group: Annotated[str | None, typer.Option(help="The account's group of keys that it is put into.")] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(help="What alone it may ask for: ids between commas; repeatable.", metavar="MODEL,..."),
    ] = None,
    mcp_servers: Annotated[
        list[str] | None,
        typer.Option(
            help="The MCP servers whose tools it may use: labels between commas, or '*'.", metavar="LABEL,..."
        ),
    ] = None,
    offer_mcp_tools: Annotated[
        bool, typer.Option("--offer-mcp-tools", help="Offer these tools in its chats that name no server themselves.")
    ] = False,
    model_pool: PoolOption = None,
    optimize_mode: ModeOption = None,
    routing_event: EventOption = False,
    networks: NetworksOption = None,
    note: NoteOption = None,
    tag: TagOption = None,
    mint_over_mcp: Annotated[
        bool, typer.Option("--mint-over-mcp", help="Let it make keys with budgets by a tool, where a model sees them.")
    ] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    quiet: QuietOption = False,
    is_json: JsonOption = False,
) -> None:
    """Make an API key; it is shown this once."""
    scopes = None if not scope else [_scope(name) for name in scope]
    if expires_in is not None and expires_in_days is not None:
        fail("--expires-in and --expires-in-days say the same: give one of them")
    expires_at_ms = after_days(expires_in_days) if expires_in is None else after(expires_in)
    limits = OwnLimits(**limits_given(requests_per_minute, requests_per_day, tokens_per_minute, in_flight))

    budgets = budgets_given(budget, lease, expires_at_ms)
    routing = RoutingDefaults(**routing_given(model_pool, optimize_mode, routing_event))
    particulars = Particulars(**particulars_given(networks, note, tag))

    async def work(desk: Desk) -> None:
        key, raw = await desk.keys.create(
            account,
            name=name,
            is_test=test,
            limits=limits,
            scopes=scopes,
            expires_at_ms=expires_at_ms,
            group=group,
            models=model_names(models or (), "--models") or None,
            may_mint_over_mcp=mint_over_mcp,
            mcp_servers=_servers_given(mcp_servers),
            offers_mcp_tools=offer_mcp_tools,
            routing=routing,
            particulars=particulars,
        )
        await _bound(desk, key, budgets)
        words = raw if quiet else f"key {key.id} of {account}; keep it, it is not shown again:\n{raw}"
        answer(words, {**(await _objects(desk, [key]))[0], "key": raw}, is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("list")
def list_keys(
    account: Annotated[str | None, typer.Option("--account", help="Only this account's.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Show keys by their first characters, with the scopes, ends and limits that are not the usual ones."""

    async def work(desk: Desk) -> None:
        keys = await desk.keys.list(account)
        words = "\n".join([f"{'id':<38}{'account':<38}{'key':<18}{'state':<9}name", *map(_line, keys)])
        answer(words, await _objects(desk, keys) if is_json else None, is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("change")
def change_key(
    key: KeyArgument,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    requests_per_minute: ChangedLimitOption = None,
    requests_per_day: ChangedLimitOption = None,
    tokens_per_minute: ChangedLimitOption = None,
    in_flight: ChangedLimitOption = None,
    group: Annotated[
        str | None,
        typer.Option(help="The account's group of keys that it is put into; '' for none. Left out: as it was."),
    ] = None,
    mint_over_mcp: Annotated[
        bool | None,
        typer.Option(help="Let it make keys with budgets by a tool, or not, nor what it made. Left out: as it was."),
    ] = None,
    mcp_servers: Annotated[
        list[str] | None,
        typer.Option(
            help="The MCP servers whose tools it may use, instead of others; '' for none, nor for what it made. "
            "Left out: as they were.",
            metavar="LABEL,...",
        ),
    ] = None,
    offer_mcp_tools: Annotated[
        bool | None,
        typer.Option(help="Offer these tools in its chats that name no server themselves. Left out: as it was."),
    ] = None,
    model_pool: ChangedPoolOption = None,
    optimize_mode: ChangedModeOption = None,
    routing_event: ChangedEventOption = None,
    networks: ChangedNetworksOption = None,
    note: ChangedNoteOption = None,
    tag: ChangedTagOption = None,
    budget: BudgetOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Rename a key, set what it may do or what is said of it, or bound it by more budgets; show it then."""
    budgets = budgets_given(budget, None, None)
    limits = limits_given(requests_per_minute, requests_per_day, tokens_per_minute, in_flight)
    servers = _servers_given([] if mcp_servers == [""] else mcp_servers) if mcp_servers is not None else None
    routing = routing_given(model_pool, optimize_mode, routing_event)
    particulars = particulars_given(networks, note, tag)

    async def work(desk: Desk) -> None:
        is_asked = any(given is not None for given in (name, group, mint_over_mcp, servers, offer_mcp_tools))
        change = partial(
            desk.keys.change,
            name=name,
            limits=limits,
            group=group,
            may_mint_over_mcp=mint_over_mcp,
            mcp_servers=servers,
            offers_mcp_tools=offer_mcp_tools,
            routing=routing,
            particulars=particulars,
        )
        found = await (change if is_asked or limits or routing or particulars else desk.keys.get)(key)
        if budgets:
            await desk.server.decide(MakeBudgets(budgets_of(found.account_id, found.id, budgets)))
        words = f"key {key} ({shown(found.name, LISTED_CHARS)}): "
        limits_now = limits_in_words(found.limits) or "the configured limits"
        rights = _group_in_words(found), _minting_in_words(found), _servers_in_words(found)
        said = routing_in_words(found.routing), particulars_in_words(found)
        words += ", ".join(filter(None, (limits_now, *rights, *said)))
        answer(words, (await _objects(desk, [found]))[0], is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("rotate")
def rotate_key(
    key: KeyArgument,
    keep_old_for: Annotated[
        str,
        typer.Option(help="How long the old secret is of use still, such as 30m, 12h or 7d; 0 for not at all."),
    ],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    quiet: QuietOption = False,
    is_json: JsonOption = False,
) -> None:
    """Give a key a new secret, which is shown this once; all else of it stays."""
    kept_ms = 0 if keep_old_for == "0" else lifetime_ms(keep_old_for, "--keep-old-for")
    if kept_ms > MAX_KEPT_S * 1000:
        fail(f"--keep-old-for takes up to {MAX_KEPT_S // 86_400} days")

    async def work(desk: Desk) -> None:
        rotated, raw = await desk.keys.rotate(key, kept_ms)
        old = f"is of use for {keep_old_for}" if kept_ms else "is of no use any more"
        words = raw if quiet else f"key {key}: the old secret {old}; keep the new one, it is not shown again:\n{raw}"
        answer(words, {**(await _objects(desk, [rotated]))[0], "key": raw}, is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("revoke")
def revoke_key(
    key: KeyArgument,
    with_made: Annotated[bool, typer.Option("--with-made", help="And each key that it made, or one of those.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    quiet: QuietOption = False,
    is_json: JsonOption = False,
) -> None:
    """Make a key useless, within a second also for a running server."""

    async def work(desk: Desk) -> None:
        made_count = None
        if with_made:
            found, made_count = await desk.keys.revoke_with_made(key)
        else:
            found = await desk.keys.revoke(key)
        await desk.server.give_back()
        made = "" if made_count is None else f", and {made_count} that it made"
        facts = (await _objects(desk, [found]))[0] | ({} if made_count is None else {"made_revoked": made_count})
        answer(key if quiet else f"key {key} is revoked{made}", facts, is_json=is_json)

    at_desk(config, data_dir, work)


async def _bound(desk: Desk, key: Key, budgets: Sequence[GivenBudget]) -> None:
    """Make these budgets of a new key, which nobody knows before; without them it is of no use."""
    try:
        if budgets:
            await desk.server.decide(MakeBudgets(budgets_of(key.account_id, key.id, budgets), above=key.above))
    except BaseException:
        await desk.keys.revoke(key.id)
        raise


def _servers_given(asked: Sequence[str] | None) -> list[str]:
    labels = [label.strip() for text in asked or () for label in text.split(",")]
    if not all(label == ANY_SERVER or SERVER_LABEL.fullmatch(label) for label in labels):
        fail("--mcp-servers takes labels of servers between commas, or '*'")
    return labels


def _scope(name: str) -> KeyScope:
    scope = next((scope for scope in SCOPES if scope == name), None)
    if scope is None:
        fail(f"--scope takes {', '.join(SCOPES)}; not '{shown(name)}'")
    return scope


def _line(key: Key) -> str:
    own = _own_rights(key), limits_in_words(key.limits), _group_in_words(key), _minting_in_words(key)
    said = routing_in_words(key.routing), particulars_in_words(key)
    notes = " ".join(filter(None, (shown(key.name, LISTED_CHARS), *own, *said)))
    return f"{key.id:<38}{key.account_id:<38}{key.prefix + '...':<18}{key.state_at(now_ms()):<9}{notes}"


def _group_in_words(key: Key) -> str:
    return "" if key.group is None else f"in the group {shown(key.group)}"


def _minting_in_words(key: Key) -> str:
    return "mints over MCP" if key.may_mint_over_mcp else ""


def _servers_in_words(key: Key) -> str:
    offered = " in each chat" if key.offers_mcp_tools else ""
    return f"with tools of {', '.join(sorted(key.mcp_servers))}{offered}" if key.mcp_servers else ""


def _own_rights(key: Key) -> str:
    """Nothing for a key that may be used for everything and for ever."""
    is_usual = key.is_test or len(key.scopes) == len(SCOPES)
    scopes = "" if is_usual else f"for {' and '.join(scope for scope in SCOPES if scope in key.scopes)}"
    end = "" if key.expires_at_ms is None else f"until {datetime.fromtimestamp(key.expires_at_ms / 1000, UTC):%Y-%m-%d}"
    models = "" if key.models is None else f"for {', '.join(map(shown, sorted(key.models)))}"
    return " ".join(filter(None, (scopes, models, _servers_in_words(key), end)))


async def _objects(desk: Desk, keys: Sequence[Key]) -> list[dict[str, Any]]:
    """With what each has used, its budgets, and those of its group."""
    held = defaultdict[str, list[dict[str, Any]]](list)
    uses: dict[str, KeyUse] = {}
    for account_id in {key.account_id for key in keys}:
        for one in await desk.ledger.budgets(account_id):
            held[one.budget.holder].append(budget_object(one))
        uses |= await desk.history.uses(account_id, [key.id for key in keys if key.account_id == account_id])
    return [_object(key, [*held[key.id], *held[key.group_id or ""]], uses[key.id]) for key in keys]


def _object(key: Key, budgets: Sequence[dict[str, Any]], use: KeyUse) -> dict[str, Any]:
    return {
        "id": key.id,
        "account": key.account_id,
        "prefix": key.prefix,
        "name": key.name,
        "test": key.is_test,
        "state": key.state_at(now_ms()),
        "created_at": seconds(key.created_at_ms),
        "revoked_at": seconds(key.revoked_at_ms),
        "expires_at": seconds(key.expires_at_ms),
        "made_by": key.made_by,
        "old_expires_at": seconds(key.replaced_until_ms) if key.is_replaced_one_valid_at(now_ms()) else None,
        "group": key.group,
        "models": None if key.models is None else sorted(key.models),
        "mcp_servers": sorted(key.mcp_servers),
        "offer_mcp_tools": key.offers_mcp_tools,
        **key.routing.as_object(),
        **key.particulars_told(),
        "scopes": [scope for scope in SCOPES if scope in key.scopes],
        "mint_over_mcp": key.may_mint_over_mcp,
        "limits": key.limits.as_object(),
        **use.as_object(),
        "budgets": list(budgets),
    }
