"""What a backend says that it has counted of a model since its counters began. Knows no format and no backend."""

from typing import NamedTuple


class TokenCounters(NamedTuple):
    """Only ever growing, until the backend starts again; None for what it does not tell.

    `cached_tokens` are a part of the prompts'. `more_choices` are answers beyond the first of each request.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    finished_requests: int | None = None
    more_choices: int | None = None
    began_at_ms: int | None = None

    def goes_on_from(self, earlier: "TokenCounters") -> bool:
        """Whether these are the same counters later, and not those of a backend that started again in between."""
        if self.began_at_ms != earlier.began_at_ms:
            return False
        pairs = zip(self[:4], earlier[:4], strict=True)
        return all(later is None or before is None or later >= before for later, before in pairs)
