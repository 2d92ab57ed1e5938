"""All that is logged while something runs, with the gateway's own logging at its loudest."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mcp_gateway.core.observe.logs import configure_logging


class _KeepingLines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@contextmanager
def everything_logged() -> Iterator[list[str]]:
    """Every line that any logger writes."""
    root, handler = logging.getLogger(), _KeepingLines()
    before = {name: logging.getLogger(name).level for name in ("", *logging.root.manager.loggerDict)}
    configure_logging("debug")
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield handler.lines
    root.removeHandler(handler)
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)
