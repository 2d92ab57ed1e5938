"""Several exchanges in one request, with tools of servers run in between: to a door as one exchange is.

A round is an exchange with its own terms, hold, settlement and record; what is told of all are the sums.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import orjson

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.inference.exchange import AnswerFacts, Exchange, Inference
from mcp_gateway.core.inference.round_frames import RoundFrames, ToolNotices
from mcp_gateway.core.inference.toolbox import Toolbox, ToolCall, toolbox
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.money import format_usd, usd_number
from mcp_gateway.core.surfaces.credible import not_understood
from mcp_gateway.core.surfaces.surface import NO_USAGE_WISHES, Ask, Body
from mcp_gateway.core.surfaces.usage import Usage
from mcp_gateway.core.surfaces.wanted_tools import WantedTools, offered
from mcp_gateway.core.surfaces.whole_answer import parsed_answer

_ENDED_BY: dict[Code, str] = {
    "insufficient_balance": "balance",
    "below_minimum_balance": "balance",
    "balance_held": "balance",
    "budget_exhausted": "budget",
}
"""In the words that an answer has which was cut; whatever else bounds a caller is told by its code."""
_ENDING_STATUSES = frozenset({402, 429})
_COST_CAP = "max_cost_usd"
_FREE = ("auto", "none")
_CUT = "length"


class RoundBounds(NamedTuple):
    """How often a model may be asked, and how a stream tells of tools."""

    most_rounds: int
    tells_events: bool


def in_rounds(
    exchange: Exchange, ask: Ask, caller: Caller, inference: Inference, context: RequestContext
) -> "Exchange | Rounds":
    """The exchange with the tools that its ask wants, or its key offers; as it is where there are none.

    Raises GatewayError for a server that there is none of.
    """
    if ask.wanted_tools is None and _takes_tools(ask, caller, inference, exchange.call.provider):
        ask.wanted_tools = offered(ask.body, inference.tool_servers.of(caller))
    wanted, settings = ask.wanted_tools, inference.parts.settings.mcp
    if wanted is None:
        return exchange
    tools = toolbox(
        inference.tool_servers,
        wanted,
        caller,
        inference.parts,
        search_from=settings.tool_search_from,
    )
    most_rounds = min(wanted.max_rounds or settings.tool_rounds, settings.tool_rounds)
    bounds = RoundBounds(most_rounds, wanted.tells_events)
    return Rounds(exchange, partial(inference.another, caller), tools, bounds, context)


def _takes_tools(ask: Ask, caller: Caller, inference: Inference, provider: str | None) -> bool:
    """Whether the model does that is asked for; one that is not found is refused later.

    One that is chosen is chosen among those that do.
    """
    if ask.routing is not None:
        return True
    try:
        model = inference.parts.published.found_at(provider, caller, ask.model)
    except GatewayError:
        return False
    return "tools" in model.features


class Rounds:
    """Rounds of `exchange`, which is the first of them and has been entered; whoever leaves that leaves all."""

    _ask: Ask
    _fields: dict[str, Any]
    _note: Callable[[], None] | None = None
    _ended_by: str | None = None
    _frames: RoundFrames | None = None
    _pending: Sequence[ToolCall] = ()
    """Of a stream: what is to be run before it goes on."""
    _is_over = False
    body: Body = b""
    """The answer in one piece, where that is what was asked for."""

    def __init__(
        self,
        exchange: Exchange,
        another: Callable[[Exchange, int], Exchange],
        toolbox: Toolbox,
        bounds: RoundBounds,
        context: RequestContext,
    ) -> None:
        self._first = self._exchange = exchange
        self._another = another
        self._toolbox = toolbox
        self._bounds = bounds
        self._context = context
        self._told: list[AnswerFacts] = []

    # The calls of a door

    async def begin(self, ask: Ask, note: Callable[[], None] | None = None) -> None:
        """The first round of a stream, or all rounds of an answer in one piece. Raises GatewayError."""
        self._note, self._ask = note, ask
        ask.request_id = self._first.call.request_id
        await self._exchange.begin(self._asked_first(ask), note)
        if ask.is_stream:
            self._frames = RoundFrames(self._toolbox.is_ours, {})
            return
        answer = await parsed_answer(self._exchange.body)
        while calls := self._calls_in(answer):
            self._leave()
            if not await self._ask_again(_said_in(answer), calls):
                break
            answer = await parsed_answer(self._exchange.body)
        else:
            self._leave()
        self.body = orjson.dumps(self._whole(answer))

    async def next_frames(self) -> bytes:
        """Frames for the client, of whichever round; b"" after the last."""
        while not self._is_over:
            frames = self._frames
            assert frames is not None
            if self._pending:
                return await self._after_tools(frames)
            came = await self._exchange.next_frames()
            if not came:
                return self._after_round(frames)
            is_opening = not frames.head
            seen = frames.feed(came)
            if is_opening and frames.head:
                seen += b"".join(map(self._notices.unreached, self._toolbox.unreached))
            if not frames.is_understood:
                return seen + await self.frames_of(not_understood())
            if seen:
                return seen
        return b""

    async def frames_of(self, error: GatewayError) -> bytes:
        """The end of a stream by a failure, accounted for, unless its round has been: as it is between two."""
        self._is_over = True
        told = await self._exchange.frames_of(error)
        return told if self._frames is None else self._frames.feed(told) + self._ask.surface.done

    @property
    def facts(self) -> AnswerFacts:
        """Of all rounds so far; what was changed in the request, of the first."""
        told = self._told or [self._exchange.facts]
        return AnswerFacts(
            cost_nano=sum(facts.cost_nano for facts in told),
            usage=_sum_of([facts.usage for facts in told if facts.usage is not None]),
            clamped_to=told[0].clamped_to,
            ignored=told[0].ignored,
            overhead_s=sum(facts.overhead_s for facts in told),
            ended_by=told[-1].ended_by,
            model=told[-1].model,
            routing=told[-1].routing,
        )

    @property
    def latest_words(self) -> str:
        """The end of what has come in this round."""
        return self._exchange.latest_words

    # What is asked

    def _asked_first(self, ask: Ask) -> Ask:
        """The ask as the first round has it: the caller's stays, so that what is kept of it goes on being counted."""
        definitions = self._toolbox.definitions
        self._fields = dict(ask.body)
        self._fields["tools"] = [*ask.body["tools"], *definitions]
        self._fields.pop("stream_options", None)
        if self._bounds.most_rounds == 1:
            self._fields["tool_choice"] = "none"
        prompt = ask.prompt._replace(text_bytes=ask.prompt.text_bytes + len(dump_json(definitions)))
        return replace(ask, body=dict(self._fields), prompt=prompt, usage_wishes=NO_USAGE_WISHES)

    def _asked_next(self, said: Sequence[dict[str, Any]]) -> Ask:
        """With what was said since; a tool whose call was forced is not forced again."""
        fields = self._fields
        fields["messages"] = [*fields["messages"], *said]
        if len(self._told) + 1 == self._bounds.most_rounds:
            fields["tool_choice"] = "none"
        elif fields.get("tool_choice") not in (None, *_FREE):
            fields["tool_choice"] = "auto"
        body = dict(fields)
        ask = self._ask.surface.read(body, len(dump_json(body)))
        ask.wanted_tools, ask.route = self._left, self._ask.route
        return ask

    @property
    def _left(self) -> WantedTools | None:
        """What was wanted, with what the next round may cost of what the caller lets all of them cost."""
        wanted = self._ask.wanted_tools
        if wanted is None or wanted.max_cost_nano is None:
            return wanted
        spent_nano = sum(facts.cost_nano for facts in self._told)
        return wanted._replace(max_cost_nano=wanted.max_cost_nano - spent_nano)

    async def _ask_again(self, message: dict[str, Any], calls: Sequence[ToolCall]) -> bool:
        """Run what was called, and begin the next round with it; False where what bounds the caller ends the rounds.

        Raises GatewayError for other failures.
        """
        results = await self._toolbox.run(calls)
        said = [message | {"tool_calls": [call.as_object() for call in calls]}, *map(_answered, calls, results)]
        await self._context.reservation.grow(len(dump_json(said)))
        ask = self._asked_next(said)
        exchange = self._exchange = self._another(self._first, len(self._told) + 1)
        exchange.__enter__()
        self._first.last_round = exchange
        try:
            await exchange.begin(ask, self._note)
        except GatewayError as error:
            self._ended_by = self._end_by(error)
            if self._ended_by is None:
                raise
            exchange.__exit__(type(error), error, None)
            self._first.last_round = None
            return False
        return True

    def _end_by(self, error: GatewayError) -> str | None:
        if error.param == f"gateway.{_COST_CAP}":
            return _COST_CAP
        return _ENDED_BY.get(error.code, error.code) if error.status in _ENDING_STATUSES else None

    def _leave(self) -> None:
        """End the round, whose answer is whole and settled."""
        self._told.append(self._exchange.facts)
        if self._first.last_round is not None:
            self._first.last_round.__exit__(None, None, None)
            self._first.last_round = None

    # An answer in one piece

    def _calls_in(self, answer: dict[str, Any]) -> list[ToolCall]:
        """The calls to run, of an answer with nothing else to run: the caller's own are for the caller alone."""
        if answer["choices"][0].get("finish_reason") == _CUT or len(self._told) + 1 >= self._bounds.most_rounds:
            return []
        made = [call for call, _ in _calls_of(answer)]
        return made if all(self._toolbox.is_ours(call.name) for call in made) else []

    def _whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The last answer, with what the rounds came to."""
        choice, calls = answer["choices"][0], _calls_of(answer)
        own = [told for call, told in calls if not self._toolbox.is_ours(call.name)]
        if len(own) < len(calls):
            choice["message"]["tool_calls"] = own
            choice["finish_reason"] = choice.get("finish_reason") if own else _CUT
        facts = self.facts
        assert facts.usage is not None
        answer["model"] = facts.model
        answer["usage"] = facts.usage.as_object()
        if self._ask.usage_wishes.with_cost:
            answer["usage"] |= _costs_of(facts, with_number=True)
        answer["gateway"] = (answer.get("gateway") or {}) | self.told
        return answer

    @property
    def told(self) -> dict[str, Any]:
        """What the rounds came to, beside the answer."""
        told: dict[str, Any] = {
            "tool_calls": [ran.as_object() for ran in self._toolbox.ran],
            "rounds": len(self._told),
        }
        if self._toolbox.unreached:
            told["unreachable_servers"] = self._toolbox.unreached
        return told if self._ended_by is None else told | {"ended_by": self._ended_by}

    # A stream

    def _after_round(self, frames: RoundFrames) -> bytes:
        """What follows the frames of a round that has ended: that tools are called, or the end of the stream."""
        self._leave()
        if frames.is_failed:
            self._is_over = True
            return self._ask.surface.done
        self._pending = [] if frames.has_others or self._is_last(frames) else frames.calls
        notices = self._notices
        return b"".join(notices.called(self._toolbox.told_name(call)) for call in self._pending) or self._end_of(frames)

    async def _after_tools(self, frames: RoundFrames) -> bytes:
        """What the tools came to, once the next round has begun with it."""
        calls, self._pending, ran_before = self._pending, (), len(self._toolbox.ran)
        try:
            is_begun = await self._ask_again(frames.message, calls)
        except GatewayError as error:
            return await self.frames_of(error)
        told = b"".join(map(self._notices.answered, self._toolbox.ran[ran_before:]))
        if not is_begun:
            return told + self._end_of(frames)
        self._frames = RoundFrames(self._toolbox.is_ours, frames.head)
        return told or self._ask.surface.comment

    @property
    def _notices(self) -> ToolNotices:
        assert self._frames is not None
        return ToolNotices(self._frames.head, self._bounds.tells_events)

    def _is_last(self, frames: RoundFrames) -> bool:
        finish_reason = frames.finishing["choices"][0].get("finish_reason")
        return finish_reason == _CUT or len(self._told) >= self._bounds.most_rounds

    def _end_of(self, frames: RoundFrames) -> bytes:
        """The frame that finishes, with what the rounds came to; the usage of all, where it was asked for."""
        self._is_over = True
        last = frames.finishing
        choice, facts = last["choices"][0], self.facts
        if frames.calls and not frames.has_others:
            choice["finish_reason"] = _CUT
        last["gateway"] = (last.get("gateway") or {}) | self.told
        told = b"data: %b\n\n" % orjson.dumps(last)
        if self._ask.usage_wishes.at_end and facts.usage is not None:
            costs = _costs_of(facts, with_number=self._ask.usage_wishes.with_cost)
            usage = facts.usage.as_object() | costs
            ending = {name: last.get(name) for name in ("id", "object", "created", "model")}
            told += b"data: %b\n\n" % orjson.dumps(ending | {"choices": [], "usage": usage})
        return told + self._ask.surface.done


def _costs_of(facts: AnswerFacts, *, with_number: bool) -> dict[str, Any]:
    """What all rounds cost, as a usage tells it."""
    told: dict[str, Any] = {"cost_usd": format_usd(facts.cost_nano)}
    return told | {"cost": usd_number(facts.cost_nano)} if with_number else told


def _sum_of(usages: Sequence[Usage]) -> Usage | None:
    """All tokens; what was cached of the prompts is known where some round tells it."""
    if not usages:
        return None
    cached = [usage.cached_tokens for usage in usages if usage.cached_tokens is not None]
    written = [usage.cache_write_tokens for usage in usages if usage.cache_write_tokens is not None]
    return Usage(
        sum(usage.prompt_tokens for usage in usages),
        sum(usage.completion_tokens for usage in usages),
        sum(cached) if cached else None,
        sum(written) if written else None,
    )


def _calls_of(answer: dict[str, Any]) -> list[tuple[ToolCall, dict[str, Any]]]:
    """The calls of functions in an answer in one piece, each as it was told beside."""
    told = answer["choices"][0]["message"].get("tool_calls")
    calls = []
    for number, call in enumerate(told if isinstance(told, list) else ()):
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(name := function.get("name"), str):
            arguments = function.get("arguments")
            text = arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode()
            calls.append((ToolCall(str(call.get("id") or f"call_{number}"), name, text, call), call))
    return calls


def _said_in(answer: dict[str, Any]) -> dict[str, Any]:
    """What a model has said in a round, as it is told in the next, but for its calls."""
    message: dict[str, Any] = answer["choices"][0]["message"]
    content = message.get("content")
    told = {name: told for name, told in message.items() if told is not None}
    return told | {"role": "assistant", "content": content if isinstance(content, str) else None}


def _answered(call: ToolCall, result: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call.id, "content": result}
