"""What is logged while something runs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mcp_gateway.core.observe.logs import configure_logging


class _KeepingLines(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@contextmanager
def lines_logged(level: int = logging.NOTSET) -> Iterator[list[str]]:
    """The lines from this level on, as far as the loggers let them through."""
    root, handler = logging.getLogger(), _KeepingLines(level)
    root.addHandler(handler)
    try:
        yield handler.lines
    finally:
        root.removeHandler(handler)


@contextmanager
def everything_logged() -> Iterator[list[str]]:
    """Every line that any logger writes, with the gateway's own logging at its loudest."""
    root = logging.getLogger()
    before = {name: logging.getLogger(name).level for name in ("", *logging.root.manager.loggerDict)}
    configure_logging("debug")
    root.setLevel(logging.DEBUG)
    with lines_logged() as lines:
        yield lines
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)
