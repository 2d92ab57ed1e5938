"""The headers that sign a delivery, as Standard Webhooks have them. Pure.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import hmac
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256

from mcp_gateway.core.webhook_secret import key_of


def signed_headers(secrets: Iterable[str], event_id: str, at_s: int, body: bytes) -> list[tuple[bytes, bytes]]:
    """With a signature by each secret: whoever knows one of them can check it."""
    said = b"%b.%d.%b" % (event_id.encode(), at_s, body)
    signatures = (b64encode(hmac.digest(key_of(secret), said, sha256)) for secret in secrets)
    return [
        (b"webhook-id", event_id.encode()),
        (b"webhook-timestamp", b"%d" % at_s),
        (b"webhook-signature", b" ".join(b"v1," + signature for signature in signatures)),
    ]
