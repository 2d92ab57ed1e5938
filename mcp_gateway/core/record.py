"""What is recorded of a request: metadata, never a word of its content; and the statements of its row."""

from typing import Literal, NamedTuple

from mcp_gateway.core.errors import Code

OK = 200
"""The status of a request that was answered: a plain int, which compares faster than HTTPStatus."""

Door = Literal["http", "mcp"]


class RequestRecord(NamedTuple):
    """One request. `cost_nano` in nano-USD by the prices that `price_version` names; times in milliseconds."""

    id: str
    client_request_id: str | None
    account_id: str
    key_id: str | None
    door: Door
    model: str | None
    backend: str | None
    is_stream: bool
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None
    cost_nano: int
    price_version: str | None
    started_at_ms: int
    latency_ms: int
    first_token_ms: int | None
    http_status: int
    error_code: Code | None
    finish_reason: str | None


_MOST_SUMMED = {"cost_nano": 10**15}
_MOST_SUMMED_TOKENS = 2**32
"""Of one request; more than any can have, and little enough that no sum over a database overflows."""


def sum_of(column: str) -> str:
    """The SQL of a sum that cannot fail: rows of earlier versions may hold whatever a backend once said."""
    return f"SUM(MAX(0, MIN({column}, {_MOST_SUMMED.get(column, _MOST_SUMMED_TOKENS)})))"


COLUMNS = RequestRecord._fields
INSERT = (
    f"INSERT INTO requests ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "
    "ON CONFLICT (account_id, id) DO NOTHING"
)
"""Takes a record as its parameters; a request is recorded once."""
CORRECT = (
    "UPDATE requests SET cost_nano = COALESCE(?, cost_nano), http_status = ?, error_code = ?, latency_ms = ? "
    "WHERE account_id = ? AND id = ?"
)
"""For a request whose outcome turned out otherwise after its row was written; takes a `correction`."""


def correction(
    record: RequestRecord, *, keeps_cost: bool = False
) -> tuple[int | None, int, Code | None, int, str, str]:
    """The parameters of CORRECT; what was charged may stay."""
    return (
        None if keeps_cost else record.cost_nano,
        record.http_status,
        record.error_code,
        record.latency_ms,
        record.account_id,
        record.id,
    )
