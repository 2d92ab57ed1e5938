"""Whose fault the end of a request at a backend is, and whether the backend had begun to work on it: one table."""

from typing import Literal, NamedTuple

from mcp_gateway.core.errors import GatewayError


class GoingDown(GatewayError):
    """The backend said that it is about to end: nothing more may be sent to it."""

    def __init__(self) -> None:
        super().__init__("backend_died", "The backend shut down before the answer was whole.")


class AnswerTooLarge(GatewayError):
    """An answer that is not held whole: no fault of its backend, and the same on any other."""

    def __init__(self) -> None:
        super().__init__("backend_error", "The answer is too large to be held whole. Lower `max_tokens`, or stream it.")


class OperatorFault(GatewayError):
    """A provider refuses what only the operator can put right: money, key or rights of the account, or a model.

    Others are asked meanwhile; a caller is told that the model is not there now, and never to pay.
    """

    def __init__(self, fault: Literal["money", "key", "access", "model"], public_model: str) -> None:
        super().__init__("model_unavailable", f"{public_model!r} is not available at the moment.", retry_after_s=30)
        self.fault = fault


class TooSlow(GatewayError):
    """The backend took longer than a request may wait; whether that is its fault, its health and gauges tell."""


class Blame(NamedTuple):
    """`was_taken`: whether the backend may have worked on the request, so that it costs something elsewhere too.

    `is_certain` is whether the backend said itself that it will go on failing.
    """

    whose: Literal["backend", "full", "absent", "ours", "request"]
    was_taken: bool
    is_certain: bool = False


_BLAMES = {
    "backend_died": Blame("backend", was_taken=True),
    "backend_error": Blame("backend", was_taken=True),
    "first_token_timeout": Blame("backend", was_taken=True),
    "connect_failed": Blame("backend", was_taken=False),
    "backend_busy": Blame("full", was_taken=False),
    "model_unavailable": Blame("absent", was_taken=False),
    "unsupported_endpoint": Blame("absent", was_taken=False),
    "overloaded": Blame("ours", was_taken=False),
}
_REFUSED = Blame("request", was_taken=True)
"""Every other code: a refused request, a client that has left, a key that has ended."""


def blame_of(error: GatewayError) -> Blame:
    """What an error says of the backend at which a request ended with it."""
    match error:
        case GoingDown():
            return Blame("backend", was_taken=True, is_certain=True)
        case AnswerTooLarge():
            return _REFUSED
    return _BLAMES.get(error.code, _REFUSED)
