"""Whom a request is made for, and by which tags its cost is told apart: read where its account asks for that alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mcp_gateway.core.record import Attribution
from mcp_gateway.core.tags import Tags, tags_of
from mcp_gateway.core.text import is_one_line

MAX_USER_CHARS = 128
_MOST_CHARS = 1000
"""Of what is looked at for a user, and for all tags together: nothing longer is either."""
_METADATA = "metadata"
_TAGS = "tags"
_USER_FIELDS = ("user", "safety_identifier")
"""OpenAI's; Anthropic's is the `user_id` in a request's metadata."""
_USER_ID = "user_id"
_UNREADABLE = "\ufffd"
"""In a header that is no UTF-8."""


class Attributed(NamedTuple):
    """What a request is attributed to, and the names in it of what could not be recorded as it is."""

    to: Attribution | None
    unusable: tuple[str, ...] = ()


def attributed(
    key_tags: Tags, sent: Mapping[bytes, bytes], user_headers: Sequence[str], body: Mapping[str, Any]
) -> Attributed:
    """By its headers and its body, and by the tags of its key, which count beside its own."""
    metadata = body.get(_METADATA)
    fields: Mapping[str, Any] = metadata if isinstance(metadata, dict) else {}
    own_tags = _read_tags(fields.get(_TAGS))
    unusable = [] if own_tags is not None else [f"{_METADATA}.{_TAGS}"]
    user = None
    for name, value in _told_users(sent, user_headers, body, fields):
        if (user := _read_user(value)) is not None:
            break
        unusable.append(name)
    tags = tuple(dict.fromkeys((own_tags or ()) + key_tags))
    return Attributed(Attribution(user, tags) if user is not None or tags else None, tuple(unusable))


def _told_users(
    sent: Mapping[bytes, bytes], user_headers: Sequence[str], body: Mapping[str, Any], metadata: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """What is said of the user, with the name of where it stands, first what counts first; empty is nothing."""
    for header in user_headers:
        if told := sent.get(header.lower().encode()):
            yield header, told.decode(errors="replace")
    for field in _USER_FIELDS:
        if body.get(field) not in (None, ""):
            yield field, body[field]
    if metadata.get(_USER_ID) not in (None, ""):
        yield f"{_METADATA}.{_USER_ID}", metadata[_USER_ID]


def _read_user(value: Any) -> str | None:
    """None for what is no short line of text."""
    user = value.strip() if isinstance(value, str) and len(value) <= _MOST_CHARS else ""
    return user if 0 < len(user) <= MAX_USER_CHARS and is_one_line(user) and _UNREADABLE not in user else None


def _read_tags(value: Any) -> Tags | None:
    """A list of labels, or a text with commas between, since OpenAI's metadata has texts alone; None for neither."""
    if value is None:
        return ()
    if isinstance(value, str) and len(value) <= _MOST_CHARS:
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, list) or len(value) > _MOST_CHARS or not all(isinstance(label, str) for label in value):
        return None
    if sum(map(len, value)) > _MOST_CHARS:
        return None
    try:
        return tags_of(value)
    except ValueError:
        return None
