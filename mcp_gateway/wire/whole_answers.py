"""An answer in one piece, as both doors send it, and how it says when to ask again. Knows no API's words."""

from starlette.types import Send

Header = tuple[bytes, bytes]
Headers = list[Header]

JSON_TYPE = (b"content-type", b"application/json")


async def send_bytes(send: Send, body: bytes | bytearray, headers: Headers, status: int = 200) -> None:
    """Send a whole answer; head and body leave together."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def retry_after(wait_s: int | None) -> tuple[Header, ...]:
    """The header that says so, if anything is to be waited for."""
    return () if wait_s is None else ((b"retry-after", b"%d" % wait_s),)
