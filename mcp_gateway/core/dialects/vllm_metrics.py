"""vLLM's /metrics page: how many requests run and wait, and the tokens that were counted. Knows no backend."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from mcp_gateway.core.text import is_one_line
from mcp_gateway.core.token_counters import TokenCounters

_RUNNING = re.compile(rb"\nvllm:num_requests_running\{([^\n]+)")
_WAITING = re.compile(rb"\nvllm:num_requests_waiting\{([^\n]+)")
_TOKENS = re.compile(rb"\nvllm:(?:generation|prompt)_tokens_total\{([^\n]+)")
_COUNTERS = re.compile(
    rb"\nvllm:((?:prompt_tokens|generation_tokens|prompt_tokens_cached|request_success)_total|prompt_tokens_created"
    rb"|request_params_n_(?:count|sum))\{([^\n]+)"
)
_PROCESS_START = re.compile(rb"\nprocess_start_time_seconds ([^\n]+)")
_LABEL = b'model_name="'
_ESCAPES = ((b"\\\\", b"\x00"), (b'\\"', b"\x01"), (b"\\n", b"\n"))
"""What a label has in place of a backslash, a quote and a line's end, the first two with what stands for them."""
_MAX_LABEL_BYTES = 1024
_NUMBER = re.compile(rb"\d{1,15}(?:\.\d{1,20})?(?:[eE]\+?\d{1,2})?")
_MAX_LINES, _MAX_COUNT = 4096, 1e15
"""Read of one metric: one for each engine and model; and of each at most this."""
_MAX_MODELS, _MAX_NAME_CHARS = 256, 256
"""Whose counters are read of one page."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """Requests in a server's engines: those that run, and those that wait for a place.

    `tokens` counts all prompt and output tokens since it began; None where it tells none.
    """

    running: int
    waiting: int
    tokens: float | None = None


def read_gauges(exposition: bytes) -> Gauges | None:
    """The queue gauges of a /metrics page, None where it has none; summed over models, which share the GPUs."""
    page = b"\n" + exposition
    running, waiting = (_total(gauge, page) for gauge in (_RUNNING, _WAITING))
    if running is None and waiting is None:
        return None
    return Gauges(int(running or 0), int(waiting or 0), _total(_TOKENS, page))


def read_counters(exposition: bytes) -> Mapping[str, TokenCounters]:
    """The counters of each model, by the name that the page has for it, summed over engines; of few models at most."""
    page = b"\n" + exposition
    found: defaultdict[bytes, dict[bytes, float]] = defaultdict(dict)
    for name, line in islice(map(re.Match.groups, _COUNTERS.finditer(page)), _MAX_LINES):
        label, number = _label(line), _number(line)
        if label and number is not None:
            counts = found[label]
            before = counts.get(name, 0.0)
            counts[name] = max(before, number) if name == b"prompt_tokens_created" else before + number
    named = ((label.decode("utf-8", "replace"), counts) for label, counts in islice(found.items(), _MAX_MODELS))
    process = _PROCESS_START.search(page)
    began_at_s = None if process is None else _number(process[1])
    return {
        model: _counters(counts, began_at_s)
        for model, counts in named
        if _is_name(model) and b"prompt_tokens_total" in counts
    }


def _counters(counts: Mapping[bytes, float], began_at_s: float | None) -> TokenCounters:
    """`began_at_s` is when the process began, which counts where the counters tell no beginning of their own."""
    requests, choices = counts.get(b"request_params_n_count"), counts.get(b"request_params_n_sum")
    began_at_s = counts.get(b"prompt_tokens_created", began_at_s)
    return TokenCounters(
        prompt_tokens=int(counts[b"prompt_tokens_total"]),
        completion_tokens=int(counts.get(b"generation_tokens_total", 0)),
        cached_tokens=_whole(counts.get(b"prompt_tokens_cached_total")),
        finished_requests=_whole(counts.get(b"request_success_total") if requests is None else requests),
        more_choices=None if requests is None or choices is None else max(0, int(choices - requests)),
        began_at_ms=None if began_at_s is None else int(began_at_s * 1000),
    )


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _label(line: bytes) -> bytes:
    """The model that a line is of, empty where it tells none; what is escaped stands aside until its end is found."""
    begins_at = line.find(_LABEL)
    label = line[begins_at + len(_LABEL) : begins_at + _MAX_LABEL_BYTES] if begins_at >= 0 else b""
    for escaped, aside in _ESCAPES:
        label = label.replace(escaped, aside)
    label, quote, _ = label.partition(b'"')
    return label.replace(b"\x00", b"\\").replace(b"\x01", b'"') if quote else b""


def _is_name(model: str) -> bool:
    return 0 < len(model) <= _MAX_NAME_CHARS and is_one_line(model)


def _total(metric: re.Pattern[bytes], page: bytes) -> float | None:
    """The sum of a metric's lines; None where none has a number."""
    lines = islice(map(re.Match.groups, metric.finditer(page)), _MAX_LINES)
    numbers = [number for (line,) in lines if (number := _number(line)) is not None]
    return sum(numbers) if numbers else None


def _number(line: bytes) -> float | None:
    value = _NUMBER.match(line.rpartition(b"} ")[2])  # a model's name may hold a brace
    return None if value is None else min(float(value[0]), _MAX_COUNT)
