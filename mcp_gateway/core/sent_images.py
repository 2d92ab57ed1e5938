"""Images as a request has them: sent along as data, or named by an address that stands in no body.

Knows no surface and fetches nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

IMAGE_TYPES = ("png", "jpeg", "webp", "gif")
"""Of `image/...`, those that are taken."""
PLACEHOLDER = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""A pixel that stands for an image until it is fetched: a backend that counts a prompt would fetch an address."""
_DATA = "data:"


class RemoteImage(NamedTuple):
    """An image that is named by its address: `where` is its place for the caller; `put` writes one into its `part`."""

    url: str
    where: str
    part: dict[str, Any]
    put: Callable[[dict[str, Any], str], None]


class SentImage(NamedTuple):
    """A data: URI, or an address, and how many characters it came in."""

    url: str
    size_chars: int
    remote: RemoteImage | None = None


def taken_out(url: str, where: str, part: dict[str, Any], put: Callable[[dict[str, Any], str], None]) -> SentImage:
    """An address, in whose place the body has a pixel from now on."""
    put(part, PLACEHOLDER)
    return SentImage(url, len(url), RemoteImage(url, where, part, put))


def is_address(url: str) -> bool:
    """Whether an image is not sent along."""
    return url[: len(_DATA)].lower() != _DATA
