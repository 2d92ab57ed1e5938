"""How a gateway says that it is, over HTTP. Imports nothing of the gateway, since a container asks twice a minute."""

import json
import sys
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT_S = 5.0
_MOST_BYTES = 1_000_000
_MOST_CHARS = 200
STATUSES = ("ok", "degraded", "down")


def ask(url: str, *, is_live: bool) -> dict[str, Any]:
    """What it tells of itself, asked by no proxy. Raises ValueError, in words, where no gateway answers."""
    parts = urlsplit(url)
    connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    try:
        with closing(connect(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)) as connection:
            connection.request("GET", parts.path.rstrip("/") + ("/livez" if is_live else "/health"))
            told = json.loads(connection.getresponse().read(_MOST_BYTES))
    except (OSError, HTTPException, ValueError) as error:
        raise ValueError(_no_gateway(url, str(error))) from None
    if not isinstance(told, dict) or told.get("status") not in STATUSES:
        raise ValueError(_no_gateway(url, "what answers there is something else"))
    return told


def _no_gateway(url: str, why: str) -> str:
    return f"no gateway answers at {url[:_MOST_CHARS]}: {ascii(why[:_MOST_CHARS])[1:-1]}"


def is_live_at(url: str) -> bool:
    """The whole of `mcp-gateway health --live --url`, for whoever asks all the time."""
    try:
        print(ask(url, is_live=True)["status"])
    except ValueError as error:
        print(f"mcp-gateway: {error}", file=sys.stderr)
        return False
    return True
