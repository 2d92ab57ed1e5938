"""Lists that are read page by page. A cursor names the last row shown, so that a page stays right while rows arrive."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field

from http_api.query import Query

Row = TypeVar("Row")


class PageQuery(Query):
    """What every list takes beside its cursor and filters."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 50


def cursor_key(pattern: re.Pattern[str]) -> BeforeValidator:
    """Reads a cursor as the key of the row that it names, which matches `pattern`."""

    def read(cursor: str) -> str:
        try:
            key = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        except ValueError:
            key = ""
        if not pattern.fullmatch(key):
            raise ValueError("must be the next_cursor of an earlier page of this list")
        return key

    return BeforeValidator(read)


def list_object(
    rows: Sequence[Row], limit: int, key_of: Callable[[Row], str], object_of: Callable[[Row], dict[str, Any]]
) -> dict[str, Any]:
    """A page as JSON. `rows` are one more than `limit` where another page follows."""
    shown = rows[:limit]
    cursor = _cursor(key_of(shown[-1])) if len(rows) > limit else None
    return {"object": "list", "data": [object_of(row) for row in shown], "next_cursor": cursor}


def _cursor(key: str) -> str:
    return urlsafe_b64encode(key.encode()).rstrip(b"=").decode()
