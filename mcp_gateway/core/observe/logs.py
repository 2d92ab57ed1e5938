"""Logging to stderr, with the libraries silenced that would write content or secrets into a log at some level."""

import logging
from datetime import UTC, datetime
from typing import Literal

import orjson

LogFormat = Literal["text", "json"]
_QUIET = (
    "asyncio",
    "httpcore2",
    "httpx2",
    "openai",
    "requests",
    "starlette",
    "stripe",
    "urllib3",
    "uvicorn",
)
"""Libraries that log frames, bodies, SQL parameters or headers below WARNING: silenced there, whatever is asked."""
_SILENT = ("mcp", "sse_starlette")
"""The MCP SDK logs what a message holds even at ERROR, as pydantic's account of it; what is worth saying, we say."""


class _Text(logging.Formatter):
    """Times in UTC with their zone: logs of machines in several zones are read together."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03}Z"


class _Json(_Text):
    """One object a line, whatever the message holds."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        facts = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        written: dict[str, str | int] = {
            name: text.encode(errors="backslashreplace").decode() for name, text in facts.items()
        }
        if self._worker is not None:
            written["worker"] = self._worker
        return orjson.dumps(written).decode()


def formatter_of(form: LogFormat, worker: int | None = None) -> logging.Formatter:
    """What makes a line of a record, of a worker process where one is named."""
    if form == "json":
        return _Json(worker)
    named = "" if worker is None else f"worker {worker} "
    return _Text(f"%(asctime)s %(levelname)-7s {named}%(name)s: %(message)s")


def name_worker(number: int, form: LogFormat) -> None:
    """Have each line that is logged from now on say which worker process it is of."""
    for handler in logging.root.handlers:
        handler.setFormatter(formatter_of(form, number))


def configure_logging(level: str, form: LogFormat = "text") -> None:
    """Log ours at `level`, libraries from WARNING up or not at all."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter_of(form))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    least = dict.fromkeys(_QUIET, logging.WARNING) | dict.fromkeys(_SILENT, logging.CRITICAL + 1)
    for name in {*least, *logging.root.manager.loggerDict}:
        if name.partition(".")[0] in least:
            _set_level(name, least.get(name, logging.NOTSET))


def _set_level(name: str, level: int) -> None:
    """Unless it has it: each change has all loggers forget what they know of theirs."""
    if (logger := logging.getLogger(name)).level != level:
        logger.setLevel(level)
