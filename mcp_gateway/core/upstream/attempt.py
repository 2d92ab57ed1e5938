"""One request at one backend: how long it waits there, and what its end says of the backend.

Slow is not dead: a wait that is over is prolonged while the backend shows that it works. Nothing is done here for each
piece of an answer; the transport asks when nothing has come for a while.
"""

from math import inf

from mcp_gateway.core.blame import GoingDown, TooSlow, blame_of
from mcp_gateway.core.config import UpstreamSettings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.upstream.backend import Backend
from mcp_gateway.core.upstream.transport import ConnectionDied, TimedOut

LOOK_S = 1.0
"""How often a silent backend is looked at."""
GRACE_S = 5.0
"""How long a backend that is lost, or stuck, keeps the requests that it has not begun to answer."""


class Attempt:
    """Counts a request in; `end` is called once. To the transport it is the patience that the request has."""

    def __init__(
        self, backend: Backend, backend_model: str, upstream: UpstreamSettings, prompt_tokens: int, *, is_stream: bool
    ) -> None:
        at_once_s = upstream.first_token_timeout_s
        most_s = max(at_once_s, upstream.first_token_max_s)
        grown_s = at_once_s + upstream.first_token_s_per_1k_prompt_tokens * prompt_tokens / 1000
        self.backend = backend
        self.first_token_s = min(grown_s, most_s)
        self._backend_model = backend_model
        self._idle_s = upstream.idle_timeout_s
        self.began_at_s = backend.work.now_s()
        self._last_at_s = self.began_at_s + most_s
        self._due_at_s = self.began_at_s + self.first_token_s if is_stream else inf
        self.look_s = min(LOOK_S, self.first_token_s, self._idle_s)
        self._has_begun = False
        self._number = backend.breaker.enter()
        backend.work.in_flight += 1
        backend.work.waits_s[self] = self.first_token_s

    def commented(self) -> None:
        """The backend sent a sign of life, and no token yet."""
        self._due_at_s = min(self.backend.work.now_s() + self.first_token_s, self._last_at_s)

    def began(self) -> None:
        """The first token came."""
        self._has_begun = True
        self.backend.work.waits_s.pop(self, None)
        self.backend.breaker.proved(self._number)

    def end(self, error: GatewayError | None) -> None:
        """The answer came whole, or `error` ended it."""
        backend, breaker = self.backend, self.backend.breaker
        backend.work.in_flight -= 1
        backend.work.waits_s.pop(self, None)
        if error is None:
            breaker.succeeded(self._number)
        else:
            self._fail(error)
            backend.note_refusal(error, self._backend_model)

    def _fail(self, error: GatewayError) -> None:
        backend, blame = self.backend, blame_of(error)
        is_its_fault = blame.whose == "backend"
        backend.failed_requests += is_its_fault and blame.was_taken
        if is_its_fault and not self.is_only_slow(error):
            backend.breaker.failed(self._number, _reason(error), is_certain=blame.is_certain)
        else:
            backend.breaker.left(self._number)

    def is_only_slow(self, error: GatewayError) -> bool:
        """Whether it took too long at a backend that works: nothing to blame it for, nor to be computed elsewhere.

        Nothing but its first token tells that one works which is never asked how it is.
        """
        if not isinstance(error, TooSlow):
            return False
        shows_work = self._shows_work()
        if shows_work is None and not self.backend.is_asked_how_it_is:
            return error.code != "first_token_timeout"
        return shows_work is not False

    # -- what the transport asks

    def look(self, silent_s: float) -> float:
        """How long to wait on after a silence. Raises UpstreamError to give up."""
        return self._look_amid(silent_s) if self._has_begun else self._look_before()

    def _look_before(self) -> float:
        now_s = self.backend.work.now_s()
        if self._is_left_behind(now_s):
            raise ConnectionDied("the backend is lost, or does nothing", before_first_byte=False)
        left_s = self._due_at_s - now_s
        if left_s <= 0:
            left_s = self._prolonged_until_s(now_s) - now_s
            self.backend.is_doubted = True
        if left_s <= 0:
            raise TimedOut("queue" if self._is_queued() else "first_token")
        return min(LOOK_S, left_s)

    def _look_amid(self, silent_s: float) -> float:
        if silent_s < self._idle_s:
            return min(LOOK_S, self._idle_s - silent_s)
        shows_work = self.backend.shows_work(self.backend.work.now_s() - silent_s, still_s=inf)
        if shows_work is False or (shows_work is None and silent_s >= 2 * self._idle_s):
            raise TimedOut("idle")
        self.backend.is_doubted = True
        return LOOK_S

    def _prolonged_until_s(self, now_s: float) -> float:
        """Without gauges nothing tells a slow backend from one that hangs: its /health alone doubles the time."""
        match self._shows_work():
            case True:
                return self._last_at_s
            case None:
                return min(self._due_at_s + self.first_token_s, self._last_at_s)
        return now_s

    def _shows_work(self) -> bool | None:
        return self.backend.shows_work(self.began_at_s, still_s=self.first_token_s)

    def _is_queued(self) -> bool:
        return self._shows_work() is True and self.backend.work.has_queue

    def _is_left_behind(self, now_s: float) -> bool:
        """Whether its backend has been gone for long enough; one that was sent there nevertheless gets its time."""
        gone_at_s, began_at_s = self.backend.gone_at_s, self.began_at_s
        if gone_at_s is None:
            return False
        return now_s >= (gone_at_s + GRACE_S if began_at_s <= gone_at_s else began_at_s + self.first_token_s)


def _reason(error: GatewayError) -> str:
    if isinstance(error, GoingDown):
        return "it is shutting down"
    return f"its requests fail, the last with {error.code}"
