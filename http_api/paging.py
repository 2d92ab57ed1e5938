"""Lists that are read page by page. A cursor names the last row shown, so that a page stays right while rows arrive."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BeforeValidator, Field

from http_api.operations import Told
from http_api.query import Query

Row = TypeVar("Row", bound=Told)
Found = TypeVar("Found")
P = TypeVar("P", bound="Page[Any]")


class PageQuery(Query):
    """What every list takes beside its cursor and filters."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 50


class Page(Told, Generic[Row]):
    """Some rows of a list; `next_cursor` asks for those behind them, null where there are none."""

    object: Literal["list"]
    data: list[Row]
    next_cursor: str | None


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


def page_of(
    kind: type[P], found: Sequence[Found], limit: int, key_of: Callable[[Found], str], row_of: Callable[[Found], Told]
) -> P:
    """A page of what was found, which is one more than `limit` where another page follows."""
    shown = found[:limit]
    cursor = _cursor(key_of(shown[-1])) if len(found) > limit else None
    return kind(object="list", data=[row_of(one) for one in shown], next_cursor=cursor)


def _cursor(key: str) -> str:
    return urlsafe_b64encode(key.encode()).rstrip(b"=").decode()
