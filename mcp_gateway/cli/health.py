"""`mcp-gateway health`: whether a gateway serves, for people and programs that ask by a command."""

from typing import Annotated

import typer

from mcp_gateway.cli.desk import ConfigOption, DataDirOption, JsonOption, answer, fail, settings_of
from mcp_gateway.core.hosts import listening_url
from mcp_gateway.core.text import shown
from mcp_gateway.core.web_address import is_web_address
from mcp_gateway.health import ask

_DOWN = 1


def tell_health(
    url: Annotated[
        str | None, typer.Option(help="Another gateway's address; otherwise the one of the settings.")
    ] = None,
    is_live: Annotated[
        bool, typer.Option("--live", help="Whether it runs at all, whatever it can serve: what restarts it asks this.")
    ] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Ask a gateway how it is, and on its own machine why; exits with 1 where it serves nothing or does not answer."""
    if url is None:
        settings = settings_of(config, data_dir)
        url = listening_url(settings.host, settings.port)
    elif not is_web_address(url):
        fail("--url takes an address such as http://127.0.0.1:8080")
    try:
        told = ask(url, is_live=is_live)
    except ValueError as error:
        fail(str(error), status=_DOWN)
    words = [told["status"], *(f"- {shown(str(reason), 1000)}" for reason in told.get("reasons", ()))]
    answer("\n".join(words), told, is_json=is_json)
    if told["status"] == "down":
        raise typer.Exit(_DOWN)
