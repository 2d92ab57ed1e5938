"""What the whole gateway did in the last day: counted in memory, so that asking costs nothing; read back at start.

Of several servers each counts its own requests, and now and then reads what those of all came to of late.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mcp_gateway.core.clock import DAY_MS, MINUTE_MS
from mcp_gateway.core.engine import Engine, Scan
from mcp_gateway.core.ids import first_id_at
from mcp_gateway.core.record import OK, RequestRecord

SLOT_MS = 600_000
_LATE_SLOTS = 3
"""The present one and those before it: most requests that began in an earlier one have ended by the next look."""
_LATEST_STREAMS = 100


@dataclass(slots=True)
class Slot:
    """Ten minutes, or the sum of a day's. Times are of answers that succeeded, to two digits, with how often each."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latencies_ms: Counter[int] = field(default_factory=Counter)
    first_tokens_ms: Counter[int] = field(default_factory=Counter)

    def add(self, other: "Slot") -> None:
        self.requests += other.requests
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.latencies_ms.update(other.latencies_ms)
        self.first_tokens_ms.update(other.first_tokens_ms)


class SlotPart(NamedTuple):
    """Of one slot's requests in the log those that took as long, None where they failed or told nothing."""

    slot: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    latency_ms: int | None
    first_token_ms: int | None


@dataclass(frozen=True, slots=True)
class ActivitySince(Scan[list[SlotPart]]):
    """All requests from an id on, by slots of SLOT_MS; times to two digits."""

    since_id: str


class FirstToken(NamedTuple):
    """When a stream of a model was asked for, and how long its first token took."""

    model: str
    started_at_ms: int
    first_token_ms: int


@dataclass(frozen=True, slots=True)
class LatestFirstTokens(Scan[list[FirstToken]]):
    """Of each model up to `most` streams that succeeded, the latest of those from an id on, in their order."""

    since_id: str
    most: int


class Activity:
    """A ring of slots, in which a request counts where it started; and the latest streams of each model."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._slots: dict[int, Slot] = {}
        self._streams: dict[str | None, deque[tuple[int, int]]] = {}
        self._medians: dict[str | None, int] = {}
        self._medians_at_ms = 0

    def note(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        slot = self._slot(record.started_at_ms // SLOT_MS)
        slot.requests += 1
        slot.prompt_tokens += record.prompt_tokens
        slot.completion_tokens += record.completion_tokens
        if record.http_status == OK:
            slot.latencies_ms[_two_digits(record.latency_ms)] += 1
            if record.first_token_ms is not None:
                slot.first_tokens_ms[_two_digits(record.first_token_ms)] += 1
                self._note_stream(record.model, record.started_at_ms, record.first_token_ms)

    async def restore(self, store: Engine) -> None:
        """Count the last day's requests of earlier runs, from the request log; once, at start."""
        await self._read_since(store, self._now_ms() - DAY_MS)

    async def watch(self, store: Engine) -> None:
        """Take over what several servers did together, whenever a slot's time has passed, until cancelled."""
        while True:
            await asyncio.sleep(SLOT_MS / 1000)
            await self.catch_up(store)

    async def catch_up(self, store: Engine) -> None:
        """What the requests of all servers came to in the latest slots, in the place of what was counted of them."""
        since_ms = (self._now_ms() // SLOT_MS - _LATE_SLOTS + 1) * SLOT_MS
        await self._read_since(store, since_ms)

    async def _read_since(self, store: Engine, since_ms: int) -> None:
        """The request log, in the place of what is known since then, from the beginning of a slot or of all."""
        since_id = first_id_at("req", since_ms)
        streams = await store.read(LatestFirstTokens(since_id, _LATEST_STREAMS))
        parts = await store.read(ActivitySince(since_id))
        self._streams = {
            model: deque((one for one in known if one[0] < since_ms), maxlen=_LATEST_STREAMS)
            for model, known in self._streams.items()
        }
        for stream in streams:
            self._note_stream(*stream)
        self._slots = {number: slot for number, slot in self._slots.items() if number * SLOT_MS < since_ms}
        for part in parts:
            slot = Slot(part.requests, part.prompt_tokens, part.completion_tokens)
            if part.latency_ms is not None:
                slot.latencies_ms[part.latency_ms] = part.requests
            if part.first_token_ms is not None:
                slot.first_tokens_ms[part.first_token_ms] = part.requests
            self._slot(part.slot).add(slot)

    def last_day(self) -> Slot:
        """The sum of the slots that began within the last 24 hours."""
        total = Slot()
        for number, slot in self._slots.items():
            if number * SLOT_MS > self._now_ms() - DAY_MS:
                total.add(slot)
        return total

    def first_token_ms(self, model: str) -> int | None:
        """The median of a model's latest hundred streams of the last day, to two digits; taken once a minute."""
        now_ms = self._now_ms()
        if not 0 <= now_ms - self._medians_at_ms < MINUTE_MS:
            self._medians_at_ms, self._medians = now_ms, dict(self._medians_since(now_ms - DAY_MS))
        return self._medians.get(model)

    def _note_stream(self, model: str | None, started_at_ms: int, first_token_ms: int) -> None:
        streams = self._streams.get(model)
        if streams is None:
            streams = self._streams[model] = deque(maxlen=_LATEST_STREAMS)
        streams.append((started_at_ms, first_token_ms))

    def _medians_since(self, since_ms: int) -> Iterator[tuple[str | None, int]]:
        """By model; one without a stream since then is forgotten."""
        for model, streams in [*self._streams.items()]:
            if times_ms := sorted(time_ms for started_at_ms, time_ms in streams if started_at_ms > since_ms):
                yield model, _two_digits(times_ms[(len(times_ms) - 1) // 2])
            else:
                del self._streams[model]

    def _slot(self, number: int) -> Slot:
        slot = self._slots.get(number)
        if slot is None:
            oldest = (self._now_ms() - DAY_MS) // SLOT_MS
            self._slots = {kept: slot for kept, slot in self._slots.items() if kept >= oldest}
            slot = self._slots[number] = Slot()
        return slot


def quantile(counts: Mapping[int, int], share: float) -> int | None:
    """The value that `share` of all counted ones do not exceed; None where nothing was counted."""
    left = share * sum(counts.values())
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    return None


def _two_digits(number: int) -> int:
    """Rounded down to two significant digits: some 500 values below an hour in milliseconds."""
    step: int = 10 ** max(0, len(str(number)) - 2)
    return number // step * step
