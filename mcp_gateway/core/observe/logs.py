"""Logging to stderr, with the libraries silenced that would write content or secrets into a log at some level."""

import logging

_QUIET = (
    "asyncio",
    "aiosqlite",
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


def configure_logging(level: str) -> None:
    """Log ours at `level`, libraries from WARNING up or not at all."""
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", level=level.upper())
    for names, least in ((_QUIET, logging.WARNING), (_SILENT, logging.CRITICAL + 1)):
        for name in names:
            logging.getLogger(name).setLevel(least)
            for child in logging.root.manager.loggerDict:
                if child.startswith(f"{name}."):
                    logging.getLogger(child).setLevel(logging.NOTSET)
