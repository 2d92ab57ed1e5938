"""What a stream may spend where its account's money is tight: one slice of output after the other is held as it comes.

So a request holds about what it costs and not the worst case. Knows tokens and money, and not what frames look like.
"""

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.terms import cost_nano
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.ledger.purse import Hold
from mcp_gateway.core.prices import Price
from mcp_gateway.core.record import EndedBy
from mcp_gateway.core.surfaces.usage import Usage

FIRST_SLICE_TOKENS = 512
_MOST_SLICE_TOKENS = 8192


class RunningHold:
    """Of one request; raises its hold. `ended_by` is whose money has ended before the answer did."""

    ended_by: EndedBy | None = None

    def __init__(self, ledger: Ledger, price: Price, images: int, prompt_tokens: int, most_tokens: int) -> None:
        """For a prompt of about so many tokens and an answer of no more than `most_tokens`."""
        self._ledger = ledger
        self._price = price
        self._images = images
        self._most_tokens = most_tokens
        self._slice_tokens = min(FIRST_SLICE_TOKENS, most_tokens)
        self._wanted_tokens = self._slice_tokens
        self._hold: Hold | None = None
        self._needed_nano = 0
        self.prompt_tokens = prompt_tokens
        """What the hold has of the prompt: as the stream tells it, once it does."""
        self.output_tokens = 0
        """What the hold covers of the answer."""

    @property
    def first_nano(self) -> int:
        """What is held before the backend is asked: the prompt, and a first slice."""
        return self._price.most_nano(self.prompt_tokens, self._wanted_tokens, self._images)

    def least_nano(self, useful_tokens: int) -> int:
        """Without which it is not asked."""
        return self._price.most_nano(self.prompt_tokens, min(useful_tokens, self._most_tokens), self._images)

    def begin(self, hold: Hold) -> None:
        self._hold = hold
        self._note_covered()

    def goes_by(self, price: Price) -> None:
        """From now on: that of who is asked, where it was held by the dearest that may be."""
        self._price = price
        self._note_covered()

    async def covers(self, usage: Usage) -> bool:
        """Whether what has come so far is held, from now on; what is free decides, as it is read again before a no."""
        prompt_tokens, output_tokens = usage.prompt_tokens, usage.completion_tokens
        if prompt_tokens == self.prompt_tokens and output_tokens <= self.output_tokens:
            return True
        assert self._hold is not None
        if output_tokens > self._wanted_tokens:
            self._slice_tokens = min(2 * self._slice_tokens, _MOST_SLICE_TOKENS)
            self._wanted_tokens = max(min(output_tokens + self._slice_tokens, self._most_tokens), output_tokens)
        needed_nano = cost_nano(usage, self._price, self._images)
        wanted_nano = self._price.most_nano(prompt_tokens, self._wanted_tokens, self._images)
        if not await self._ledger.resize(self._hold, needed_nano, wanted_nano):
            self.ended_by, self._needed_nano = self._ledger.what_ends(self._hold, needed_nano), needed_nano
            return False
        self.prompt_tokens = prompt_tokens
        self._note_covered()
        return True

    def refusal(self) -> GatewayError:
        """Where not even what came first is covered: its prompt is longer than it was counted. Nothing is held then."""
        assert self._hold is not None
        self.ended_by = None
        self._ledger.release(self._hold.request_id)
        return self._ledger.refusal(self._hold.account_id, self._needed_nano, self._hold.holders)

    def _note_covered(self) -> None:
        assert self._hold is not None
        amount_nano, prompt_tokens = self._hold.amount_nano, self.prompt_tokens
        left_nano = amount_nano - self._price.most_nano(prompt_tokens, 0, self._images)
        tokens = self._price.tokens_for(left_nano + 1, prompt_tokens)  # the prompt's cost alone was rounded up
        if tokens is not None and self._price.most_nano(prompt_tokens, tokens, self._images) > amount_nano:
            tokens = self._price.tokens_for(left_nano, prompt_tokens)
        self.output_tokens = self._most_tokens if tokens is None else max(0, tokens)
