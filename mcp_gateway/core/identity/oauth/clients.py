"""Programs that ask people to be let in: those that registered themselves (RFC 7591), and those that say at an address
of their own who they are (client ID metadata documents). Neither is believed in anything but where it is answered.
"""

import hmac
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import orjson

from mcp_gateway.core.engine import Read, Write
from mcp_gateway.core.identity.keys import digest_of
from mcp_gateway.core.identity.oauth.redirects import check_redirect, host_of
from mcp_gateway.core.identity.oauth.refusals import OAuthRefusal

ClientAuth = Literal["none", "client_secret_post", "client_secret_basic"]
CLIENT_AUTHS: tuple[ClientAuth, ...] = get_args(ClientAuth)
MAX_REDIRECTS = 10
MAX_CLIENT_NAME_CHARS = 60
MAX_CLIENT_ID_CHARS = 500


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """`name` is what it calls itself, fit to be shown; anybody may take any."""

    id: str
    name: str
    redirect_uris: tuple[str, ...]
    auth: ClientAuth = "none"
    secret_sha256: bytes | None = None

    def check_secret(self, sent: str | None, by: ClientAuth) -> None:
        """Raises OAuthRefusal `invalid_client` unless it shows what it was given, in the way that it said."""
        if by != self.auth:
            raise OAuthRefusal("invalid_client", f"This client authenticates by `{self.auth}`.")
        if self.secret_sha256 is not None and not hmac.compare_digest(digest_of(sent or ""), self.secret_sha256):
            raise OAuthRefusal("invalid_client", "The client's secret is wrong.")


@dataclass(frozen=True, slots=True)
class RegisterClient(Write[None]):
    """Those that nobody has let in since a time go first. Raises OAuthRefusal where there are as many as may be."""

    client: OAuthClient
    at_ms: int
    forgotten_before_ms: int
    most_unused: int


@dataclass(frozen=True, slots=True)
class ClientById(Read[OAuthClient | None]):
    """One that has registered; one that nobody has let in is none after a time."""

    client_id: str
    forgotten_before_ms: int


def name_shown(told: str, otherwise: str) -> str:
    """A client's name as one short line: without what hides, turns around or breaks the text beside it."""
    kept = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in told[: 4 * MAX_CLIENT_NAME_CHARS])
    return " ".join(kept.split())[:MAX_CLIENT_NAME_CHARS].strip() or otherwise


def check_redirects(addresses: Collection[str]) -> None:
    """Raises OAuthRefusal `invalid_redirect_uri`."""
    if not 0 < len(addresses) <= MAX_REDIRECTS:
        raise OAuthRefusal("invalid_redirect_uri", f"`redirect_uris` must be 1 to {MAX_REDIRECTS} addresses.")
    try:
        for address in addresses:
            check_redirect(address)
    except ValueError as fault:
        raise OAuthRefusal("invalid_redirect_uri", f"Each of `redirect_uris` {fault}.") from None


def is_document_address(client_id: str) -> bool:
    """Whether a client's id is the address of its own description."""
    return client_id.startswith("https://")


def check_document_address(client_id: str) -> None:
    """Raises OAuthRefusal `invalid_client` for one that two readers could take for different ones."""
    try:
        check_redirect(client_id)
    except ValueError:
        raise _no_document() from None
    _, _, path = client_id.removeprefix("https://").partition("/")
    if not path or "?" in client_id or {".", ".."} & set(path.split("/")) or len(client_id) > MAX_CLIENT_ID_CHARS:
        raise _no_document()


def _no_document() -> OAuthRefusal:
    message = "A `client_id` that is an address is https, and has a path and no query, `.` or `..`."
    return OAuthRefusal("invalid_client", message)


def client_in_document(client_id: str, document: bytes) -> OAuthClient:
    """Raises OAuthRefusal `invalid_client` for what does not describe this very client, or one that has a secret."""
    try:
        told = orjson.loads(document)
    except ValueError:
        told = None
    if not isinstance(told, dict) or told.get("client_id") != client_id:
        raise OAuthRefusal("invalid_client", "The client's document must be JSON whose `client_id` is its own address.")
    if told.get("token_endpoint_auth_method") not in (None, "none") or "client_secret" in told:
        raise OAuthRefusal("invalid_client", "A client with a document has no secret: its method must be `none`.")
    redirect_uris = _texts(told, "redirect_uris")
    check_redirects(redirect_uris)
    name = told.get("client_name")
    return OAuthClient(client_id, name_shown(name if isinstance(name, str) else "", host_of(client_id)), redirect_uris)


def _texts(told: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = told.get(name)
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()
