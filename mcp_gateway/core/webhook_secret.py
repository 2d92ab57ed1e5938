"""Secrets of webhooks, as Standard Webhooks have them: `whsec_` and random bytes in base64."""

import binascii
import os
from base64 import b64decode, b64encode

_PREFIX = "whsec_"
_SECRET_BYTES = 32
_LEAST_BYTES, _MOST_BYTES = 24, 64


def new_secret() -> str:
    return _PREFIX + b64encode(os.urandom(_SECRET_BYTES)).decode()


def key_of(secret: str) -> bytes:
    """The bytes that sign. Raises ValueError, in words that do not repeat it, for what is no such secret."""
    try:
        key = b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_PREFIX) or not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        raise ValueError(f"must be {_PREFIX} and {_LEAST_BYTES} to {_MOST_BYTES} random bytes in base64")
    return key
