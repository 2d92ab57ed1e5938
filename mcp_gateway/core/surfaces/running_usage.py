"""What the frames of a stream tell of its usage so far, and how many brought text where that is all to go by."""

import re
from collections.abc import Iterable

from mcp_gateway.core.surfaces.chunks import chunk_of, index_of, objects_in, split_frames
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.surface import Seen
from mcp_gateway.core.surfaces.usage import Usage, is_told, last_usage, read_usage, source_of_usage, usual_usage

TEXT = re.compile(rb'"(?:content|reasoning|reasoning_content|refusal|arguments|text|thinking)":\s?"(?!")[^\n]*+')
"""Found once in each frame that brings any."""


class RunningUsage:
    """Of a stream of so many choices to so many prompts; a usage above the `bounds` is not believed.

    `source` are the frames that told it last, and `total` what came in a frame of its own at the end.
    """

    def __init__(self, choices: int, prompts: int, bounds: UsageBounds | None) -> None:
        self.bounds = bounds
        self.source = b""
        self.total: Usage | None = None
        self.is_told = True
        """Whether the first frame tells a usage that can be; where it does not, frames with text are counted."""
        self._choices = choices
        self._prompts = prompts
        self._by_choice: dict[int, Usage] = {}
        self._is_continuous = False
        self._text_frames = 0
        self._counted_behind = b""

    @property
    def so_far(self) -> Usage | None:
        """That of the last frame that told any, and a token for each with text behind it; None without."""
        usage = self._running if self.total is None else self.total
        return None if usage is None else self._with_texts(usage)

    def seen(self, first_frame: bytes) -> Seen:
        """What the answer has at least, where its usage cannot be believed in the end."""
        first = last_usage(first_frame) if self.is_told else None
        if first is None:
            return Seen(None, self._text_frames)
        return Seen(first.prompt_tokens, self._with_texts(self._running or first).completion_tokens)

    def end(self, frame: bytes, total: Usage) -> None:
        """Take the total of a frame of its own; where that cannot be, the frames before it tell what was seen."""
        self.total = total
        if self.bounds is None or self.bounds.allow(total):
            self.source = frame

    def note(self, frames: bytes) -> bool:
        """Remember what frames tell of usage; whether they tell any."""
        has_any = self._note_by_choice(frames) if self._choices > 1 else last_usage(frames) is not None
        if has_any:
            self.source = source_of_usage(frames)
        return has_any

    def can_be(self, frame: bytes) -> bool:
        """Whether a frame tells a usage that can be, in numbers that a client can read."""
        usual = usual_usage(frame)
        usage = last_usage(frame) if usual is None else usual
        if usage is None or not (self.bounds is None or self.bounds.allow(usage)):
            return False
        return usual is not None or is_told(frame, usage)

    def count_text(self, frames: bytes) -> None:
        """Count the frames that bring text."""
        self.count(sum(1 for _ in TEXT.finditer(frames)))

    def count(self, text_frames: int) -> None:
        """All are counted, or those since usage was told last, where one that can be was."""
        if self.is_told and self._counted_behind is not self.source:
            self._counted_behind, self._text_frames = self.source, 0
        self._text_frames += text_frames

    def _with_texts(self, usage: Usage) -> Usage:
        if self.source is not self._counted_behind:
            return usage
        return usage._replace(completion_tokens=usage.completion_tokens + self._text_frames)

    @property
    def _running(self) -> Usage | None:
        return self._summed() if self._choices > 1 else last_usage(self.source)

    def _note_by_choice(self, frames: bytes) -> bool:
        """Who tells usage before a choice ends counts each choice by itself; who only then does counts them all."""
        has_any = False
        for frame in split_frames(frames):
            chunk = chunk_of(frame)
            usage = read_usage(chunk.get("usage"))
            if usage is None:
                continue
            has_any = True
            for choice in objects_in(chunk.get("choices")):
                if choice.get("finish_reason") is None:
                    self._is_continuous = True
                elif not self._is_continuous:
                    self._by_choice.clear()
                self._by_choice[index_of(choice)] = usage
        return has_any

    def _summed(self) -> Usage | None:
        """A choice tells the tokens of its own prompt, which other choices of that prompt tell too."""
        if not self._by_choice:
            return None
        each, last = self._choices // self._prompts, self._prompts - 1
        by_prompt = {min(index // each, last): usage for index, usage in self._by_choice.items()}
        return Usage(
            sum(usage.prompt_tokens for usage in by_prompt.values()),
            sum(usage.completion_tokens for usage in self._by_choice.values()),
            _sum_of_known(usage.cached_tokens for usage in by_prompt.values()),
            _sum_of_known(usage.cache_write_tokens for usage in by_prompt.values()),
        )


def _sum_of_known(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
