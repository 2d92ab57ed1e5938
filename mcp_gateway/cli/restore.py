"""`mcp-gateway restore`: a backup in the place of the database, and what is lost by that."""

from datetime import UTC, datetime
from pathlib import Path

from mcp_gateway.cli.desk import FAULTS, fail, in_words
from mcp_gateway.core.gateway import DATABASE
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.ledger.pending import PENDING
from mcp_gateway.core.private import make_folder
from mcp_gateway.core.store.sqlite.migrations import SchemaTooNew
from mcp_gateway.core.store.sqlite.restore import NotRestorable, entries_after, restore
from mcp_gateway.core.store.sqlite.sole import AlreadyServed, sole_server


def restore_backup(data_dir: Path, file: Path) -> dict[str, str | int | None]:
    """Put `file` in place, and tell from when it is, how many entries are lost, and where the old files are."""
    database = data_dir / DATABASE
    aside = data_dir / f"replaced-{now_ms()}"
    try:
        make_folder(data_dir)
        with sole_server(data_dir):
            last = restore(database, file, aside, [data_dir / PENDING])
    except (AlreadyServed, NotRestorable, SchemaTooNew, *FAULTS) as error:
        fail(f"nothing was restored: {in_words(error)}")
    return {
        "restored": str(file),
        "last_entry_at": None if last.at_ms is None else datetime.fromtimestamp(last.at_ms / 1000, UTC).isoformat(),
        "entries_lost": entries_after(aside / DATABASE, last.id),
        "settlements_set_aside": int((aside / PENDING).exists()),
        "old_files": str(aside),
    }
