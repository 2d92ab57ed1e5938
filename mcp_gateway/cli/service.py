"""mcp-gateway maintenance, incident: what is switched of the whole service while it runs."""

from typing import Annotated, Literal

import typer

from mcp_gateway.cli.desk import ConfigOption, DataDirOption, JsonOption, answer, at_desk, fail
from mcp_gateway.core.gateway import Desk
from mcp_gateway.core.service_notice import MOST_INCIDENT_CHARS, SwitchMaintenance, TellIncident
from mcp_gateway.core.text import is_one_line


def switch_maintenance(
    switch: Annotated[Literal["on", "off"], typer.Argument(help="Whether every new request is refused.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Refuse every new request with 503 `maintenance`, or take them again; over restarts, until it is switched back.

    Where the configuration says `maintenance = true`, it stays in maintenance.
    """

    async def work(desk: Desk) -> None:
        await desk.server.decide(SwitchMaintenance(switch == "on"))
        answer(f"maintenance is switched {switch}", {"maintenance": switch == "on"}, is_json=is_json)

    at_desk(config, data_dir, work)


def tell_incident(
    text: Annotated[str | None, typer.Argument(help="What the status page says, in one line.")] = None,
    is_over: Annotated[bool, typer.Option("--over", help="There is none any more.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Tell an incident on the status page, before what the configuration tells; over restarts, until it is over."""
    if (text is None) != is_over:
        fail("say either what the incident is, or --over")
    if text is not None and not (0 < len(text) <= MOST_INCIDENT_CHARS and is_one_line(text)):
        fail(f"an incident is told in one line of at most {MOST_INCIDENT_CHARS} characters")

    async def work(desk: Desk) -> None:
        await desk.server.decide(TellIncident(text))
        answer("the incident is told" if text else "there is no incident", {"incident": text}, is_json=is_json)

    at_desk(config, data_dir, work)
