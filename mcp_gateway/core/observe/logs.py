"""Logging to stderr, with the libraries silenced that would write content or secrets into a log at some level."""

import logging

_LOUD = ("asyncio", "aiosqlite", "httpcore2", "httpx2", "mcp", "openai", "sse_starlette", "starlette", "uvicorn")
"""Libraries that log frames, bodies, SQL parameters or headers below WARNING: silenced there, whatever is asked."""


def configure_logging(level: str) -> None:
    """Log ours at `level` and libraries from WARNING up."""
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", level=level.upper())
    for name in _LOUD:
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        for child in [name for name in logging.root.manager.loggerDict if name.startswith(f"{logger.name}.")]:
            logging.getLogger(child).setLevel(logging.NOTSET)
