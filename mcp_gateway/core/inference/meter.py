"""The tokens of one request: its prompt by a backend's count, and the usage that is billed, told or assumed.

Also how long backends and servers of images were waited for: whoever asks one notes both ends of the wait.
"""

from dataclasses import replace
from typing import NamedTuple

from mcp_gateway.core.catalog import Model
from mcp_gateway.core.dialects.dialect import Target, Targets
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.parts import Parts
from mcp_gateway.core.inference.routing import copied, who_counts
from mcp_gateway.core.inference.running_hold import RunningHold
from mcp_gateway.core.inference.terms import (
    estimated_prompt_tokens,
    most_output_tokens,
    most_prompt_tokens,
    quoted_prompt_tokens,
)
from mcp_gateway.core.routing.rank import Candidate, Ranking
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.surface import Ask, Incoming, Seen, Terms
from mcp_gateway.core.surfaces.usage import Usage
from mcp_gateway.core.upstream.backend import Backend

NO_USAGE = Usage(0, 0)


class Metered(NamedTuple):
    """What is billed, None for nothing at all; not reported by the backend, it never exceeds what was held.

    `policy` is by which a usage was assumed. `unbilled_tokens` count against tokens a minute all the same.
    """

    usage: Usage | None
    is_reported: bool = True
    policy: str | None = None
    unbilled_tokens: int = 0


UNUSED = Metered(None)


class Spoken(NamedTuple):
    """How the candidates of one request are asked; `is_mixed` where they speak several dialects."""

    targets: Targets
    is_mixed: bool


class Meter:
    """Counts for one request. Whoever asks a backend says which, before its answer is read."""

    terms = Terms(None, 0)
    """Decided before anybody is asked."""
    asked: Candidate[Backend] | None = None
    """The one whose answer is counted."""
    target: Target
    """How that one is asked."""
    is_held = False
    """Whether a hold covers what is billed."""
    running_hold: RunningHold | None = None
    """What raises the hold as the answer comes, where it is not for the worst case."""
    waited_s = 0.0
    """For backends: each from the request to the end of its answer in one piece, or to its failure; a count too."""
    asked_at_s: float | None = None
    """Since when it is waited for."""
    _counted_tokens: int | None = None
    _bounds: UsageBounds | None = None

    def __init__(self, parts: Parts, ask: Ask, model: Model, ranking: Ranking[Backend], spoken: Spoken) -> None:
        self._parts = parts
        self.spoken = spoken
        self._ask = ask
        self._model = model
        self.ranking = ranking
        self.estimated_tokens = estimated_prompt_tokens(ask, model, parts.settings.wallet)
        """About what the prompt has."""

    # Before it is sent

    async def count_prompt(self) -> int | None:
        """The prompt's tokens, asked once of a backend that serves; None where it cannot tell.

        What one of several dialects counts says nothing of what another does, and nobody has been chosen yet.
        """
        if self._counted_tokens is None and not self.spoken.is_mixed:
            self._counted_tokens = await self.count_at(who_counts(self.ranking))
        return self._counted_tokens

    async def check_window(self) -> None:
        """Refuse a prompt above the window of the model, which a backend would take; it is counted where it may be.

        Raises GatewayError `context_length_exceeded`.
        """
        model = self._model
        if self.most_prompt_tokens <= model.context_window:
            return
        count = await self.count_prompt()
        if count is not None and count > model.context_window * self._ask.prompt.number:
            message = f"The prompt has {count} tokens; the context window of {model.id!r} is {model.context_window}."
            raise GatewayError("context_length_exceeded", message, param=self._ask.surface.prompt_field)

    @property
    def most_prompt_tokens(self) -> int:
        """By its bytes."""
        return most_prompt_tokens(self._ask, self._model, self._parts.settings.wallet)

    @property
    def quoted_prompt_tokens(self) -> int:
        """What a hold is made for."""
        return quoted_prompt_tokens(self._ask, self._model, self._parts.settings.wallet, self._counted_tokens)

    # Once it is sent

    def asks(self, candidate: Candidate[Backend]) -> None:
        """From now on it is this one's answer that is counted, by the terms as they are now."""
        self.asked, self._bounds = candidate, None
        self.target = self.spoken.targets.at(candidate.offer, self._ask.surface, self._ask.model)
        if self.running_hold is not None:
            self.running_hold.goes_by(candidate.offer.price)

    def answered(self) -> None:
        """The backend that was asked is not waited for any more; a second time does nothing."""
        if self.asked_at_s is not None:
            self.waited_s += self._parts.monotonic_s() - self.asked_at_s
            self.asked_at_s = None

    @property
    def bounds(self) -> UsageBounds:
        """An answer has at most what was asked for, for each choice; where nothing was sent, what the window holds."""
        if self._bounds is None:
            window_tokens = self._window_tokens()
            output_tokens = (self.terms.output_limit or window_tokens) * self._ask.choices
            self._bounds = UsageBounds(window_tokens * self._ask.prompt.number, output_tokens)
        return self._bounds

    def credible(self, usage: Usage | None) -> Usage | None:
        """A usage that the backend told, if any; None, and told ourselves, where it cannot have been so much."""
        if usage is None or self.bounds.allow(usage):
            return usage
        name = self._backend_name
        self._parts.metrics.usage_invalid.labels(name).inc()
        self._parts.failures.warn_of_usage(name, "tells a usage that cannot be")
        return None

    async def measured(self, came: Incoming, *, is_failed: bool = False) -> Metered:
        """What is billed for what has come of an answer."""
        usage = self.credible(came.usage)
        if usage is not None:
            return Metered(usage)
        if not (came.is_whole or self.target.translation.tells_running_usage):
            return await self._estimated(came.seen)
        return await self.assume(came.seen, is_failed=is_failed)

    async def assume(self, seen: Seen, *, is_failed: bool = False) -> Metered:
        """What is billed where the backend told no usage to believe, by the policy for that.

        Never more than the hold is for. A policy that bills the whole hold still estimates what a failure broke off.
        """
        wallet = self._parts.settings.wallet
        policy = wallet.usage_missing
        if policy == "hold" and (not self.is_held or is_failed):
            policy = "estimate"
        self._note_missing()
        if policy == "free":
            return Metered(NO_USAGE, False, policy, self.estimated_tokens + seen.output_tokens)
        if policy == "hold":
            return Metered(self._most, False, policy)
        return (await self._estimated(seen))._replace(policy=policy)

    async def _estimated(self, seen: Seen) -> Metered:
        """What came, by what can be counted of it; never more than the hold is for."""
        prompt_tokens = seen.prompt_tokens or await self.recount_prompt() or self.estimated_tokens
        most = self._most
        usage = Usage(min(prompt_tokens, most.prompt_tokens), min(seen.output_tokens, most.completion_tokens))
        return Metered(usage, is_reported=False)

    @property
    def _most(self) -> Usage:
        """What a hold is for."""
        if self.running_hold is not None:
            return Usage(self.running_hold.prompt_tokens, self.running_hold.output_tokens)
        return Usage(self.quoted_prompt_tokens, most_output_tokens(self.terms, self._ask, self._model))

    async def prompt_alone(self) -> Metered:
        """What is billed of who left before the answer began: a backend that was asked has read the prompt.

        Where it cannot count, nothing is billed; the estimate stays counted against tokens a minute, as it does where
        nothing has a price.
        """
        if self.asked is None:
            return UNUSED
        count = await self.recount_prompt() if self.is_held else None
        usage = None if count is None else Usage(count, 0)
        return Metered(usage, is_reported=False, unbilled_tokens=self.estimated_tokens)

    async def recount_prompt(self) -> int | None:
        """The prompt's tokens by the backend that has it; None where it cannot tell, or tells what cannot be."""
        if self._ask.prompt.token_ids is not None:
            return self._ask.prompt.token_ids
        self._ask.take_out()
        if self.asked is None or not self._ask.body:
            return None
        count = await self.count_at(self.asked)
        return count if count is not None and self.credible(Usage(count, 0)) is not None else None

    async def count_at(self, candidate: Candidate[Backend]) -> int | None:
        """The prompt's tokens by this backend; None where it cannot tell."""
        if self._ask.prompt.token_ids is not None:
            return self._ask.prompt.token_ids
        target = self.spoken.targets.at(candidate.offer, self._ask.surface, self._ask.model)
        counting = target.translation.counting(self._sent_to(target), target.backend_model)
        if counting is None:
            return None
        began_at_s = self._parts.monotonic_s()
        try:
            return await candidate.backend.count_prompt(counting)
        finally:
            self.waited_s += self._parts.monotonic_s() - began_at_s

    def _sent_to(self, target: Target) -> Ask:
        """The ask as this one is sent it: of several dialects each is sent another."""
        if not self.spoken.is_mixed:
            return self._ask
        sent = replace(self._ask, body=copied(self._ask.body))
        target.translation.sift(sent.body)
        return sent

    def _note_missing(self) -> None:
        name = self._backend_name
        self._parts.metrics.usage_missing.labels(name).inc()
        problem = "tells no usage that can be: wallet.usage_missing says what is billed"
        self._parts.failures.warn_of_usage(name, problem)

    @property
    def _backend_name(self) -> str:
        assert self.asked is not None
        return self.asked.backend.name

    def _window_tokens(self) -> int:
        """The larger of the windows that the settings and the backend tell, or told when the request came."""
        assert self.asked is not None
        told_tokens = self.asked.backend.models.window_of(self.asked.offer.name)
        return max(self._model.configured_window, told_tokens or 0) or self._model.widest_window
