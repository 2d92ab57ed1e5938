"""A caller's trace, as it may be passed on: W3C Trace Context (https://www.w3.org/TR/trace-context-2/), nothing else.

A header of any other form is dropped, as the specification asks; a trace is no reason to refuse a request.
"""

import re
from collections.abc import Iterable

TRACEPARENT = b"traceparent"
_TRACESTATE = b"tracestate"
_MAX_STATE_CHARS = 512
_MAX_STATE_MEMBERS = 32
_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_OURS, _INVALID = b"00", b"ff"
_KNOWN_FLAGS = 0b11
_KEY = rb"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
_MEMBER = re.compile(_KEY + rb"=[ -+\--<>-~]{0,255}[!-+\--<>-~]")

Headers = tuple[tuple[bytes, bytes], ...]


def trace_of(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The trace headers among lower-case `headers` that are what they should be.

    A state means nothing without its parent; several lines of it are one list.
    """
    lines = [header for header in headers if header[0] in (TRACEPARENT, _TRACESTATE)]
    parents = [value for name, value in lines if name == TRACEPARENT]
    parent = _parent(parents[0]) if len(parents) == 1 else None
    if parent is None:
        return ()
    state = b",".join(value for name, value in lines if name == _TRACESTATE)
    return ((TRACEPARENT, parent), *([(_TRACESTATE, state)] if _is_state(state) else ()))


def _parent(value: bytes) -> bytes | None:
    """The parent as version 00 writes it, in which what a later version adds is left out."""
    found = _PARENT.fullmatch(value)
    if found is None:
        return None
    version, trace_id, parent_id, flags, rest = found.groups()
    if version == _INVALID or not (trace_id.strip(b"0") and parent_id.strip(b"0")):
        return None
    if version == _OURS:
        return None if rest is not None else value
    return b"-".join((_OURS, trace_id, parent_id, b"%02x" % (int(flags, 16) & _KNOWN_FLAGS)))


def _is_state(value: bytes) -> bool:
    """Whether it is a list of members, of which some may be empty, and not all."""
    if len(value) > _MAX_STATE_CHARS:
        return False
    members = [member.strip(b" \t") for member in value.split(b",")]
    is_list = any(members) and all(not member or _MEMBER.fullmatch(member) for member in members)
    return is_list and len(members) <= _MAX_STATE_MEMBERS
