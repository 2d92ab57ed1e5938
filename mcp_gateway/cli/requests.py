"""`mcp-gateway requests`: what the request log says, of whichever account."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from mcp_gateway.cli.desk import ConfigOption, DataDirOption, JsonOption, answer, at_desk, fail
from mcp_gateway.core.gateway import Desk
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.record import RequestRecord
from mcp_gateway.core.text import shown

app = typer.Typer(help="Requests that have ended; their metadata, never their content.", no_args_is_help=True)


@app.command("show")
def show_requests(
    request: Annotated[str, typer.Argument(help="The request's id, req_..., or the one that its client gave it.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Find a request of any account by its id, or the latest by the id that their client gave them."""

    async def work(desk: Desk) -> None:
        records = await desk.history.find(request)
        if not records:
            fail(f"there is no request '{shown(request)}' that has ended, by this id or a client's")
        facts = [await _object(desk, record) for record in records]
        answer("\n\n".join(map(_words, facts)), facts, is_json=is_json)

    at_desk(config, data_dir, work)


async def _object(desk: Desk, record: RequestRecord) -> dict[str, Any]:
    facts = record._asdict()
    failed = (await desk.history.failed_attempts(record.account_id, [record])).get(record.id, [])
    further = await desk.history.further_refusals(record.account_id, [record])
    at = datetime.fromtimestamp(facts.pop("started_at_ms") / 1000, UTC).isoformat(timespec="milliseconds")
    facts["failed_attempts"] = [f"{backend}: {code}" for backend, code in failed]
    facts["further_refusals"] = further.get(record.id)
    facts["routing"] = None if record.routing is None else record.routing._asdict()
    facts["attribution"] = None if record.attribution is None else record.attribution._asdict()
    return facts | {"cost_nano": record.cost_nano, "cost_usd": format_usd(record.cost_nano), "started_at": at}


def _words(facts: dict[str, Any]) -> str:
    """A line a fact; what there is not is left out."""
    return "\n".join(f"{name:<18}{shown(_told(value))}" for name, value in facts.items() if value not in (None, []))


def _told(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items() if part is not None)
    return str(value)
