"""`mcp-gateway restore`: a backup in the place of the database, and what is lost by that."""

from datetime import UTC, datetime
from pathlib import Path

from mcp_gateway.cli.desk import FAULTS, fail, in_words
from mcp_gateway.core.config import Settings
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.ledger.pending import PENDING
from mcp_gateway.core.private import make_folder
from mcp_gateway.core.store.database import NotRestorable, SchemaTooNew
from mcp_gateway.core.store.opening import database_in
from mcp_gateway.core.store.sole import AlreadyServed


def restore_backup(settings: Settings, file: Path) -> dict[str, str | int | None]:
    """Put `file` in place, and tell from when it is, how many entries are lost, and where the old files are."""
    data_dir = settings.data_dir
    aside = data_dir / f"replaced-{now_ms()}"
    try:
        make_folder(data_dir)
        database = database_in(*settings.database_place)
        with database.sole_server():
            done = database.restore(file, aside, [data_dir / PENDING])
    except (AlreadyServed, NotRestorable, SchemaTooNew, *FAULTS) as error:
        fail(f"nothing was restored: {in_words(error)}")
    return {
        "restored": str(file),
        "last_entry_at": None if done.last_at_ms is None else _shown(done.last_at_ms),
        "entries_lost": done.lost,
        "settlements_set_aside": int((aside / PENDING).exists()),
        "old_files": str(aside),
    }


def _shown(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()
