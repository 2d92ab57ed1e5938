"""`mcp-gateway admins`: keys of the operator's administrators, for /v1/admin alone."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from mcp_gateway.cli.desk import (
    LISTED_CHARS,
    ConfigOption,
    DataDirOption,
    JsonOption,
    QuietOption,
    after,
    answer,
    at_desk,
    seconds,
)
from mcp_gateway.core.gateway import Desk
from mcp_gateway.core.identity.admin_keys import AdminKey
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.text import shown

app = typer.Typer(help="Keys of administrators, who do over HTTP what is done here.", no_args_is_help=True)


@app.command("create")
def create_admin_key(
    name: Annotated[str, typer.Argument(help="Whose it is, or what it is for; the audit log tells the key's id.")],
    expires_in: Annotated[
        str | None,
        typer.Option(
            help="Refuse it after so many minutes, hours or days, such as 30m, 12h or 7d.", metavar="N(m|h|d)"
        ),
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    quiet: QuietOption = False,
    is_json: JsonOption = False,
) -> None:
    """Make an administrator's key; it is shown this once."""

    async def work(desk: Desk) -> None:
        key, raw = await desk.admin_keys.create(name, expires_at_ms=after(expires_in))
        words = raw if quiet else f"administrator's key {key.id}; keep it, it is not shown again:\n{raw}"
        answer(words, _object(key) | {"key": raw}, is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("list")
def list_admin_keys(config: ConfigOption = None, data_dir: DataDirOption = None, is_json: JsonOption = False) -> None:
    """Show all administrators' keys by their first characters."""

    async def work(desk: Desk) -> None:
        keys = await desk.admin_keys.list()
        words = "\n".join([f"{'id':<38}{'key':<18}{'state':<9}name", *map(_line, keys)])
        answer(words, [_object(key) for key in keys], is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("revoke")
def revoke_admin_key(
    key: Annotated[str, typer.Argument(help="The key's id, adm_...")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    quiet: QuietOption = False,
    is_json: JsonOption = False,
) -> None:
    """Make an administrator's key useless for good, from the next request on."""

    async def work(desk: Desk) -> None:
        revoked = await desk.admin_keys.revoke(key)
        answer(key if quiet else f"administrator's key {key} is revoked", _object(revoked), is_json=is_json)

    at_desk(config, data_dir, work)


def _line(key: AdminKey) -> str:
    end = (
        "" if key.expires_at_ms is None else f" until {datetime.fromtimestamp(key.expires_at_ms / 1000, UTC):%Y-%m-%d}"
    )
    return f"{key.id:<38}{key.prefix + '...':<18}{key.state_at(now_ms()):<9}{shown(key.name, LISTED_CHARS)}{end}"


def _object(key: AdminKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "prefix": key.prefix,
        "name": key.name,
        "state": key.state_at(now_ms()),
        "created_at": seconds(key.created_at_ms),
        "expires_at": seconds(key.expires_at_ms),
        "revoked_at": seconds(key.revoked_at_ms),
    }
