"""`mcp-gateway ledger archive`: settlements of closed months into a file, which then leave the database."""

from pathlib import Path
from typing import Annotated

import orjson
import typer

from mcp_gateway.cli.desk import (
    FAULTS,
    ConfigOption,
    DataDirOption,
    JsonOption,
    answer,
    at_desk,
    fail,
    in_words,
    settings_of,
)
from mcp_gateway.core.gateway import Desk
from mcp_gateway.core.ledger.months import Month
from mcp_gateway.core.ledger.pending import PENDING
from mcp_gateway.core.private import make_file
from mcp_gateway.core.synced import bring_to_disk


def archive_ledger(
    file: Annotated[Path, typer.Argument(help="The new file to write, a line of JSON for each.")],
    before: Annotated[str | None, typer.Option(help="Only of months before this one, as in 2026-01.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Take settlements of closed months out into a file; sums of each month stay, and so does everything else."""
    if before is not None:
        try:
            Month.named(before)
        except ValueError as error:
            fail(f"--before: {error}")
    if (settings_of(config, data_dir).data_dir / PENDING).exists():
        fail("settlements wait to be written into the database: start the server once, then archive")
    if file.exists():
        fail(f"{file} exists already; name a new file")

    async def work(desk: Desk) -> None:
        part = file.with_name(f"{file.name}.part")
        written, last_id = 0, 0
        try:
            part.unlink(missing_ok=True)  # of a run that was killed
            make_file(part)
            with part.open("wb") as out:
                async for entries in desk.archive.entries(before):
                    out.writelines(orjson.dumps(one._asdict()) + b"\n" for one in entries)
                    written, last_id = written + len(entries), entries[-1].id
            bring_to_disk(part)
            if written:
                part.rename(file)
                bring_to_disk(file.absolute().parent)
        except FAULTS as error:
            fail(in_words(error))
        finally:
            part.unlink(missing_ok=True)
        removed = await desk.archive.remove(before, last_id) if written else 0
        facts = {"file": str(file) if written else None, "written": written, "removed": removed}
        words = f"wrote {written} settlements to {file}, and removed {removed}" if written else "nothing to archive"
        answer(words, facts, is_json=is_json)

    at_desk(config, data_dir, work)
