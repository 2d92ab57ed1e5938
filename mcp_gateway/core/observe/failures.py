"""Attempts at backends that failed, for the operator: counted by backend and code, and told in one line a minute each.

So is a usage that a backend tells and cannot be, or does not tell.

Which failures there are, and what becomes of a backend that fails, is decided elsewhere.
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from http import HTTPStatus

from mcp_gateway.core.blame import OperatorFault
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.log_limit import LogLimit

logger = logging.getLogger(__name__)

_INTERVAL_S = 60.0
_TO_DO = {
    "provider_money": ": its account there has no money or quota left, which only its owner can change",
    "provider_key": ": it does not take the key",
    "provider_access": ": the key may not do this there",
    "provider_model": ": it has no such model, which mcp-gateway providers check tells of",
}
Kind = tuple[str, str]
"""The names of a backend and of an error code: as many as there are of both together, at most."""


def code_of(error: GatewayError) -> str:
    """The code of an error as the operator is told it: of a fault of the operator's, which."""
    return f"provider_{error.fault}" if isinstance(error, OperatorFault) else error.code


class Failures:
    """The first of a kind is told at once, those of the minute after it together at its end, and so on."""

    def __init__(
        self, count: Callable[[str, str], None], call_later: Callable[[float, Callable[[], None]], object]
    ) -> None:
        self._count = count
        self._call_later = call_later
        self._untold: dict[Kind, int] = {}
        """Of each kind whose minute runs."""
        self._usage_logs = defaultdict[str, LogLimit](lambda: LogLimit(logger))
        """By backend."""

    def note(self, backend: str, error: GatewayError) -> None:
        """One attempt has failed. What the request itself was refused for is counted, and no line."""
        code = code_of(error)
        self._count(backend, code)
        if error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return
        kind = backend, code
        if kind in self._untold:
            self._untold[kind] += 1
        else:
            logger.warning("backend %s: 1 attempt failed with %s%s", *kind, _TO_DO.get(code, ""))
            self._begin_minute(kind)

    def warn_of_usage(self, backend: str, problem: str) -> None:
        """Tell what the usage of an answer lacks."""
        self._usage_logs[backend].warning("backend %s " + problem, backend)

    def _begin_minute(self, kind: Kind) -> None:
        self._untold[kind] = 0
        self._call_later(_INTERVAL_S, lambda: self._end_minute(kind))

    def _end_minute(self, kind: Kind) -> None:
        backend, code = kind
        if count := self._untold.pop(kind):
            logger.warning("backend %s: %d attempts failed with %s in a minute", backend, count, code)
            self._begin_minute(kind)
