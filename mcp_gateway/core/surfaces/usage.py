"""The usage that a backend reports: read in one place, parsed or as bytes, however deep it is nested.

A quote inside a JSON string is always escaped, so `"usage":` as raw bytes is a key, and never content.
"""

import re
from typing import Any, NamedTuple

import orjson

from mcp_gateway.core.errors import GatewayError

_MAX_USAGE_BYTES = 16 * 1024
_MAX_DIGITS = 20
_MAX_TRIES, _MAX_TOLD = 256, 1000
"""How many usages that cannot be read are looked at, and how many are taken out of frames: no answer tells so many."""
_KEY = b'"usage"'
_COLON = re.compile(rb"\s{0,8}:\s{0,8}")
_COMMA_BEFORE = re.compile(rb",\s{0,8}")
_COMMA_AFTER = re.compile(rb"\s{0,8},\s{0,8}")
_FLAT = rb'\{(?:"[^"\\]{0,64}+":[^"{}\[]{0,64}+){0,16}+\}'
_FLAT_OBJECT = re.compile(_FLAT)
_PLAIN = rb'\{(?:"[^"\\]{0,64}+":(?:' + _FLAT + rb',?+|[^"{}\[]{0,64}+)){0,16}+\}'
_SPLICED_KEY = b',"usage":'
_NUMBER = b"-0123456789"
"""How one begins."""
_CLOSING_USAGE = re.compile(rb'\}\],"usage":\{"prompt_tokens":\d[^}]{0,256}+\}(?=\}\n\n(?:data: \{|\Z))')
"""As vLLM writes it: between the choices and the end of a frame, with no object in it, which had to be closed too."""
_COUNTS = re.compile(rb',"usage":\{"prompt_tokens":(\d{1,9}),"total_tokens":(\d{1,9}),"completion_tokens":(\d{1,9})\}')
SPLICED_USAGE = re.compile(rb',"usage":(?:' + _PLAIN + rb"|null)")
"""As vLLM writes it, once in every frame: numbers, and objects of numbers; no text, which could hold a brace."""
_TEXT_OR_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"?+|[{}\[\]]', re.DOTALL)
"""A text without its end is taken too: else each quote that is escaped in it would be tried as a beginning."""
_DEEPER = {b"{": 1, b"[": 1, b"}": -1, b"]": -1}
_SCALAR = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[^\s"{}\[\],:]{1,64}+', re.DOTALL)
_EXACT = b'"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d'
_ENDS = (b"}", b',"prompt_tokens_details":null}', b',"prompt_tokens_details":null,"completion_tokens_details":null}')
"""What follows in vLLM's words where no more is told."""


_COSTS = frozenset({"cost_usd", "cost", "cost_details"})
"""What a client is told by us alone: a backend that is a gateway too tells what it takes from us."""
_DETAILS = ("prompt_tokens_details", "completion_tokens_details")
_UNTOLD: tuple[Any, ...] = (None, {})
"""Details that tell nothing."""
_PARTS = ("cached_tokens", "cache_write_tokens")
"""Of `prompt_tokens_details`; OpenRouter's name for the second."""


class Usage(NamedTuple):
    """Token counts as the backend reports them.

    Parts of `prompt_tokens`, None where unknown: what a cache had of them, and what was written to one.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def as_object(self) -> dict[str, Any]:
        """The usage as it is told to a client."""
        told: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.total_tokens,
            "completion_tokens": self.completion_tokens,
        }
        parts = zip(_PARTS, (self.cached_tokens, self.cache_write_tokens), strict=True)
        details = {name: tokens for name, tokens in parts if tokens is not None}
        return told | {"prompt_tokens_details": details} if details else told


def read_usage(value: Any) -> Usage | None:
    """The usage of a backend's `usage` object; None where it is absent or not one."""
    if not isinstance(value, dict):
        return None
    prompt, completion = count_of(value.get("prompt_tokens")), count_of(value.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    details = value.get("prompt_tokens_details")
    if not isinstance(details, dict):
        return Usage(prompt, completion)
    return Usage(prompt, completion, *(count_of(details.get(name)) for name in _PARTS))


def count_of(value: Any) -> int | None:
    """A whole number from zero, which some servers write as a decimal (`12.0`) or as text (`"12"`)."""
    if type(value) is int:
        return value if value >= 0 else None
    is_digits = isinstance(value, str) and len(value) <= _MAX_DIGITS and value.isascii() and value.isdigit()
    if is_digits or (isinstance(value, float) and value.is_integer() and value >= 0):
        return int(value)
    return None


def told(value: Any, billed: Usage) -> dict[str, Any]:
    """What a client is told: the backend's own object with its counts as they are billed, where it tells those."""
    own = billed.as_object()
    if read_usage(value) != billed:
        return own
    for name in _DETAILS:
        if (details := value.get(name)) is not None:
            own[name] = _details(details, own.get(name, {}))
    if "total_tokens" not in value:
        del own["total_tokens"]
    return {**{name: one for name, one in value.items() if name not in _COSTS}, **own}


def _details(value: Any, own: dict[str, int]) -> dict[str, Any] | None:
    """The details of a count as a backend tells them, with ours: None for no object, and no count that is none."""
    if not isinstance(value, dict):
        return None
    counts = {name: count_of(one) for name, one in value.items() if _is_meant_as_count(name, one)}
    odd = [name for name, count in counts.items() if count is None]
    return {name: one for name, one in (value | counts).items() if name not in odd} | own


def _is_meant_as_count(name: str, value: Any) -> bool:
    """vLLM tells objects under such a name too, of the tokens that each kind of input has."""
    if name in _PARTS:
        return value is not None
    return name.endswith("_tokens") and isinstance(value, int | float | str)


def is_as_told(value: Any, usage: Usage) -> bool:
    """Whether a usage that was read from an object is what the object tells, so that it may pass as it is."""
    if (
        type(value["prompt_tokens"]) is type(value["completion_tokens"]) is type(value.get("total_tokens")) is int
        and value["total_tokens"] == usage.prompt_tokens + usage.completion_tokens
        and value.get("prompt_tokens_details") in _UNTOLD
        and value.get("completion_tokens_details") in _UNTOLD
        and _COSTS.isdisjoint(value)
    ):
        return True
    try:
        return orjson.dumps(told(value, usage)) == orjson.dumps(value)
    except orjson.JSONEncodeError:  # of more than 64 bits
        return False


def usual_usage(frame: bytes) -> Usage | None:
    """The usage of a frame that tells one, to the letter as vLLM does and within reason; None for any other."""
    at = frame.find(_KEY) - 1
    found = _COUNTS.match(frame, at) if at >= 0 else None
    if found is None or frame.find(_KEY, found.end()) >= 0:
        return None
    usage = Usage(int(found[1]), int(found[3]))
    return usage if usage.total_tokens == int(found[2]) else None


def is_told(text: bytes | bytearray, usage: Usage, start: int = 0) -> bool:
    """The same of a frame, or of an answer from `start` on, where it tells one usage."""
    at = text.find(_KEY, start)
    if at < 0 or text.find(_KEY, at + len(_KEY)) >= 0:
        return False
    exact = _EXACT % (usage.prompt_tokens, usage.total_tokens, usage.completion_tokens)
    if usage.cached_tokens is None and text.startswith(exact, at) and text.startswith(_ENDS, at + len(exact)):
        return True
    span = _object_after(text, at + len(_KEY))
    try:
        value = None if span is None else orjson.loads(text[span[0] : span[1]])
    except orjson.JSONDecodeError:
        return False
    return read_usage(value) == usage and is_as_told(value, usage)


def usage_at(text: bytes | bytearray, start: int, end: int | None = None) -> Usage | None:
    """The usage that the key there begins to tell before `end`; None where it tells none, or more than counts."""
    span = _object_after(text, start + len(_KEY), end)
    return _parsed(text, span) if span is not None else None


def last_usage(text: bytes | bytearray) -> Usage | None:
    """The last usage that can be read; None where none of the last ones can."""
    at, end = text.rfind(_KEY), len(text)
    for _ in range(_MAX_TRIES):
        usage = usage_at(text, at, end) if at >= 0 else None
        if usage is not None or at < 0:
            return usage
        at, end = text.rfind(_KEY, 0, at), at  # none reaches beyond the next: the search takes no longer than the text
    return None


def source_of_usage(text: bytes) -> bytes:
    """As much of the text as `last_usage` needs: the end of a long one, the rest of which need not be kept for that."""
    if len(text) <= _MAX_USAGE_BYTES:
        return text
    end = text[text.rfind(_KEY) :]
    return end if last_usage(end) is not None else text


def without_closing_usage(frames: bytes) -> tuple[bytes, int]:
    """The frames without the usages that stand where vLLM tells them, and how many these were."""
    return _CLOSING_USAGE.subn(b"}]", frames)


def without_usage(frames: bytes) -> bytes:
    """The frames without what they tell of usage, whatever shape it has.

    Raises GatewayError `backend_error` where that cannot be told from the rest: it must not reach the client.
    """
    stripped, _ = without_closing_usage(frames)
    if stripped.find(_KEY) < 0:
        return stripped
    if stripped.count(_KEY) > _MAX_TOLD:
        raise _not_understood()
    kept, begin, at = [], 0, stripped.find(_SPLICED_KEY)
    while at >= 0:
        found = SPLICED_USAGE.match(stripped, at)
        if found is not None:
            kept.append(stripped[begin:at])
            begin = found.end()
        at = stripped.find(_SPLICED_KEY, max(begin, at + len(_SPLICED_KEY)))
    stripped = b"".join((*kept, stripped[begin:]))
    return _without_odd_usage(stripped) if _KEY in stripped else stripped


def _without_odd_usage(frames: bytes) -> bytes:
    kept, begin, at = [], 0, frames.find(_KEY)
    while at >= 0:
        colon = _COLON.match(frames, at + len(_KEY))
        if colon is not None and not _is_score(frames, at, colon.end()):  # else it is a text
            start, end = _with_its_comma(frames, at, end_of_member(frames, at))
            kept.append(frames[begin:start])
            begin = end
        at = frames.find(_KEY, max(begin, at + len(_KEY)))
    kept.append(frames[begin:])
    return b"".join(kept)


def _is_score(frames: bytes, at: int, value_at: int) -> bool:
    """Whether the key is a token of that name within a choice, whose log probability a completion tells under it."""
    if frames[value_at : value_at + 1].translate(None, _NUMBER) or value_at == len(frames):
        return False
    start = frames.rfind(b"\n\n", 0, at) + 1
    return sum(_DEEPER.get(found[0], 0) for found in _TEXT_OR_BRACKET.finditer(frames, start, at)) > 1


def with_cost(frame: bytes, cost_usd: str) -> bytes:
    """A frame with `cost_usd` as the last field of the usage that it tells."""
    at = frame.find(_KEY)
    span = _object_after(frame, at + len(_KEY)) if at >= 0 else None
    if span is None:
        return frame
    end = span[1] - 1
    comma = b"" if frame[span[0] : end].strip() == b"{" else b","
    return b'%b%b"cost_usd":"%b"%b' % (frame[:end], comma, cost_usd.encode(), frame[end:])


def with_cost_number(frames: bytes, cost_usd: str) -> bytes:
    """Frames that tell `cost_usd` with the same as a number behind it, as OpenRouter tells a cost."""
    told = b'"cost_usd":"%b"' % cost_usd.encode()
    return frames.replace(told, b'%b,"cost":%b' % (told, cost_usd.encode()))


def with_both_costs(answer: bytes | bytearray, cost_usd: str) -> bytes:
    """An answer in one piece with both, in the usage that it tells last; a text in it is no key."""
    at = answer.rfind(_KEY)
    while at >= 0 and usage_at(answer, at) is None:
        at = answer.rfind(_KEY, 0, at)
    if at < 0:
        return bytes(answer)
    return bytes(answer[:at]) + with_cost_number(with_cost(bytes(answer[at:]), cost_usd), cost_usd)


def end_of_member(text: bytes | bytearray, at: int) -> int:
    """Behind the value of the key there. Raises GatewayError `backend_error` for one without an end, or too long."""
    colon = _COLON.match(text, at + len(_KEY))
    start = colon.end() if colon is not None else at
    if text[start : start + 1] in (b"{", b"["):
        end = _end_of_brackets(text, start)
    else:
        scalar = _SCALAR.match(text, start, start + _MAX_USAGE_BYTES)
        end = scalar.end() if scalar is not None else None
    if end is None:
        raise _not_understood()
    return end


def _with_its_comma(frames: bytes, start: int, end: int) -> tuple[int, int]:
    """The same member with the comma before it, or, where it is the first, the one behind it."""
    before = frames.rfind(b",", max(0, start - 9), start)
    if before >= 0 and _COMMA_BEFORE.fullmatch(frames, before, start):
        return before, end
    after = _COMMA_AFTER.match(frames, end)
    return start, after.end() if after is not None else end


def _parsed(text: bytes | bytearray, span: tuple[int, int]) -> Usage | None:
    try:
        return read_usage(orjson.loads(text[span[0] : span[1]]))
    except orjson.JSONDecodeError:
        return None


def _object_after(text: bytes | bytearray, at: int, limit: int | None = None) -> tuple[int, int] | None:
    """Where the object begins and ends that follows a key, before a limit; None where none does, or too long a one."""
    colon = _COLON.match(text, at)
    start = colon.end() if colon is not None else -1
    if start < 0 or text[start : start + 1] != b"{":
        return None
    end = _end_of_brackets(text, start, limit)
    return (start, end) if end is not None else None


def _end_of_brackets(text: bytes | bytearray, start: int, limit: int | None = None) -> int | None:
    if (flat := _FLAT_OBJECT.match(text, start)) is not None:
        return flat.end()
    depth, most = 0, start + _MAX_USAGE_BYTES
    for found in _TEXT_OR_BRACKET.finditer(text, start, most if limit is None else min(limit, most)):
        depth += _DEEPER.get(bytes(found[0]), 0)
        if not depth:
            return found.end()
    return None


def _not_understood() -> GatewayError:
    return GatewayError("backend_error", "The backend's usage could not be understood.")
