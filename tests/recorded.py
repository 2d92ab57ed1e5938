"""Rows for the request log, made as a test wants them."""

from itertools import count
from typing import Any

from mcp_gateway.core.engine import Engine
from mcp_gateway.core.ids import first_id_at
from mcp_gateway.core.record import AddRecord, RequestRecord

_numbers = count(1)
_PLAIN = RequestRecord(
    id="",
    client_request_id=None,
    account_id="acc_1",
    key_id="key_1",
    door="http",
    model="priced/tiny",
    backend="vllm-1",
    is_stream=False,
    prompt_tokens=10,
    completion_tokens=4,
    cached_tokens=None,
    cost_nano=5800,
    price_version="300000/700000",
    started_at_ms=0,
    latency_ms=120,
    first_token_ms=None,
    http_status=200,
    error_code=None,
    finish_reason="stop",
)


def recorded(at_ms: int, **fields: Any) -> RequestRecord:
    """A request that started then, under a fresh id of that time."""
    request_id = f"{first_id_at('req', at_ms)}{next(_numbers):020x}"
    named: dict[str, Any] = {"id": request_id, "started_at_ms": at_ms} | fields
    return _PLAIN._replace(**named)


async def write_records(store: Engine, *records: RequestRecord) -> None:
    """All of them in the log, committed."""
    for record in records:
        store.write(AddRecord(record))
    await store.flushed()
