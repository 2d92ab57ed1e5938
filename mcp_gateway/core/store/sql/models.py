"""When each model was first seen."""

from collections.abc import Sequence

from mcp_gateway.core.observe.model_ages import ModelsSeen, NoteModel
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction


def _note_models(transaction: Transaction, writes: Sequence[NoteModel]) -> list[None]:
    rows = [(write.model_id, write.first_seen_s) for write in writes]
    transaction.execute_many("INSERT INTO models_seen VALUES (?, ?) ON CONFLICT DO NOTHING", rows)
    return [None] * len(writes)


def _models_seen(rows: Rows, _: ModelsSeen) -> dict[str, int]:
    return dict(rows.all("SELECT id, first_seen_s FROM models_seen"))


EXECUTORS = Executors(together={NoteModel: _note_models}, reads={ModelsSeen: _models_seen})
