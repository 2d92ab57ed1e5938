"""Which revision a message over HTTP speaks, by its headers and by itself."""

from mcp.shared.inbound import unsupported_protocol_version_rejection
from mcp.types import INVALID_REQUEST, UNSUPPORTED_PROTOCOL_VERSION
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS, KNOWN_PROTOCOL_VERSIONS, is_version_at_least

from mcp_gateway.core.text import shown
from mcp_gateway.mcp_door.http import HttpRequest
from mcp_gateway.mcp_door.jsonrpc import Batch, Message, Refusal
from mcp_gateway.mcp_door.runners import has_envelope, rejected

SESSION_HEADER = b"mcp-session-id"
_VERSION_HEADER = b"mcp-protocol-version"
_BATCHES_UNTIL = "2025-06-18"


def version_of(http: HttpRequest) -> str:
    """The revision that the header names, once or several times alike; empty where it names none."""
    sent = http.headers.get(_VERSION_HEADER, b"").decode("latin-1")
    if "," not in sent:
        return sent.strip()
    named = {version.strip() for version in sent.split(",")}
    return named.pop() if len(named) == 1 else sent


def is_modern(http: HttpRequest, version: str, message: Message) -> bool:
    """Whether a message, whose header names this version, is one of a revision without a handshake.

    The header alone makes none of what opens a session or comes in one: clients that have gone back to an older
    revision may still send the newer one's.
    """
    if has_envelope(message):
        return version not in HANDSHAKE_PROTOCOL_VERSIONS
    is_of_session = message.method == "initialize" or SESSION_HEADER in http.headers
    return bool(version) and version not in HANDSHAKE_PROTOCOL_VERSIONS and not is_of_session


def check_version(version: str, message: Message | None = None) -> None:
    """Raises Refusal where the header names what is no revision."""
    if version and version not in KNOWN_PROTOCOL_VERSIONS:
        data = {"supported": list(KNOWN_PROTOCOL_VERSIONS), "requested": shown(version)}
        request_id = None if message is None else message.id
        text = "There is no such protocol version; send the one that `initialize` was answered with."
        raise Refusal(400, UNSUPPORTED_PROTOCOL_VERSION, text, request_id=request_id, data=data)


def check_notification(version: str, message: Message) -> None:
    """Notifications of 2026-07-28 are taken and mean nothing; responses and unknown revisions are refused."""
    if not message.is_notification or message.method is None:
        raise Refusal(400, INVALID_REQUEST, "Nothing was asked that this could answer.")
    rejection = unsupported_protocol_version_rejection(version)
    if rejection is not None:
        raise rejected(rejection, message)


def check_batch(batch: Batch, version: str) -> None:
    """Raises Refusal for several messages in one body where the revision has none, or where one opens a session."""
    if is_version_at_least(version, _BATCHES_UNTIL):
        text = f"Batches ended with revision {_BATCHES_UNTIL}, and this is {version}: send each message by itself."
        raise Refusal(400, INVALID_REQUEST, text)
    if any(message.method == "initialize" for message in batch):
        raise Refusal(400, INVALID_REQUEST, "`initialize` must not be part of a batch.")
