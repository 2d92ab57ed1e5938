"""Whether a request's images may pass: switched on, sent along as data or named as may be, and not on the blocklist.

No address is passed on: it would let a caller make a backend fetch anything. What the gateway fetches itself is
judged as if it had been sent along.
"""

import asyncio
import re
from base64 import b64decode
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from mcp_gateway.core.config import ConfigError, ImageFetchSettings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.policy.image_url import read_image_url
from mcp_gateway.core.policy.watched_file import WatchedFile
from mcp_gateway.core.sent_images import IMAGE_TYPES, RemoteImage, is_address

_SLICE_CHARS = 256 * 1024
"""Of base64: whole groups of four."""
_DATA_URI = re.compile(rf"data:image/(?:{'|'.join(IMAGE_TYPES)});base64,", re.IGNORECASE)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def read_blocklist(path: Path) -> frozenset[str]:
    """SHA-256 hashes of images, one in hex per line; `#` starts a comment. Raises ConfigError.

    A file's name behind its hash, as sha256sum writes it, is passed over. A line that is no hash would block nothing,
    and nobody would know.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _blocklist_fault(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _blocklist_fault(f"{path} is not UTF-8 text") from None
    first_words = [line.partition("#")[0].strip().lower().partition(" ")[0] for line in text.splitlines()]
    for number, word in enumerate(first_words, 1):
        if word and not _SHA256.fullmatch(word):
            raise _blocklist_fault(f"{path}, line {number}: is no SHA-256 hash in hex, which has 64 digits")
    return frozenset(filter(None, first_words))


class Blocklist:
    """The hashes of a file, as it is now."""

    def __init__(self, file: WatchedFile[frozenset[str]]) -> None:
        self._file = file

    def __contains__(self, digest: object) -> bool:
        return digest in self._file.value


def _blocklist_fault(fault: str) -> ConfigError:
    return ConfigError([f"image_blocklist_file: {fault}"])


@dataclass(frozen=True, slots=True)
class ImagePolicy:
    """What the operator allows; `blocked_sha256` are hashes of the decoded bytes, `fetching` None where nothing is."""

    is_enabled: bool
    blocked_sha256: Container[str] = frozenset()
    fetching: ImageFetchSettings | None = None

    async def check(self, images: Iterable[str], *, model_sees: bool) -> None:
        """Raises GatewayError: `vision_disabled`, `unsupported_parameter`, `invalid_value` or `content_policy`.

        Addresses that may be fetched pass here.
        """
        passed_chars = 0
        for image in images:
            if not self.is_enabled:
                raise GatewayError("vision_disabled", "This gateway takes no images; send text only.", param="messages")
            if not model_sees:
                raise GatewayError("vision_disabled", "This model takes text only.", param="messages")
            passed_chars += len(image)
            if passed_chars > _SLICE_CHARS:
                passed_chars = 0
                await asyncio.sleep(0)
            if self.fetching is None or not is_address(image):
                await self._check_one(image)

    def check_addresses(self, images: Sequence[RemoteImage], *, is_guest: bool) -> None:
        """What can be said of addresses before anything is fetched.

        Raises GatewayError `guests_not_allowed`, `invalid_value` or `invalid_image_url`.
        """
        if not images or self.fetching is None:
            return
        if is_guest:
            message = "Images are fetched for API keys alone: send a key, or the image as data:image/png;base64,..."
            raise GatewayError("guests_not_allowed", message, param=images[0].where)
        most = self.fetching.max_per_request
        if len(images) > most:
            message = f"A request may name at most {most} images by their address, not {len(images)}."
            raise GatewayError("invalid_value", message, param=images[most].where)
        for image in images:
            try:
                read_image_url(image.url, self.fetching.ports)
            except ValueError as fault:
                raise GatewayError("invalid_image_url", f"`{image.where}`: {fault}.", param=image.where) from None

    async def _check_one(self, image: str) -> None:
        found = _DATA_URI.match(image)
        if found is None:
            message = "Send the image itself, as data:image/png;base64,... (or jpeg, webp, gif)"
            message += "; addresses are not fetched (`fetch_images` is off)." if self.fetching is None else "."
            raise GatewayError("unsupported_parameter", message, param="image_url")
        if found.end() == len(image):
            raise GatewayError("invalid_value", "An image is empty.", param="image_url")
        try:
            digest = await _sha256_of(image, found.end())
        except ValueError:  # of which binascii.Error is one; characters beyond ASCII raise another
            raise GatewayError("invalid_value", "An image is not valid base64.", param="image_url") from None
        if digest in self.blocked_sha256:
            raise GatewayError("content_policy", "An image in this request is not allowed here.", param="messages")


async def _sha256_of(text: str, start: int) -> str:
    """The hash in hex of what the text from there on says in base64; in slices, between which others are served.

    Raises ValueError.
    """
    digest = sha256()
    for at in range(start, len(text), _SLICE_CHARS):
        piece = text[at : at + _SLICE_CHARS]
        content = b64decode(piece, validate=True)
        is_last = at + _SLICE_CHARS >= len(text)
        if not is_last:
            if len(content) * 4 != len(piece) * 3:
                raise ValueError("padding before the end")
            await asyncio.sleep(0)
        digest.update(content)
    return digest.hexdigest()
