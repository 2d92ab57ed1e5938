"""The MCP server's card: what it is and where, for whoever looks for servers.

Its form is a draft of MCP's, SEP-2127 as of July 2026, which names no tools: clients ask for them once connected. Who
knows an earlier one looks below /.well-known.
"""

from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field

from http_api.operations import PREFIXES, ROOT, Absent, Answered, AnyOperation, Asked, Nothing, Told, page_at_root
from http_api.query import AnyQuery
from mcp_gateway.core.hosts import is_address
from mcp_gateway.core.mcp_paths import GUEST_MCP_PATH, MCP_PATH
from mcp_gateway.server import SERVED_VERSIONS, SERVER_NAME, SERVER_TITLE

_SCHEMA = "https://static.modelcontextprotocol.io/schemas/v1/server-card.schema.json"
_MEDIA_TYPE = "application/mcp-server-card+json"
_HEADERS = ((b"access-control-allow-origin", b"*"), (b"cache-control", b"max-age=300"))
_DESCRIPTION = "Chats and embeddings of the language models behind one gateway, with their prices and your balance."
_DRAFT = "mcp-gateway/draft"
_VERSIONS = list(SERVED_VERSIONS)


class CardHeader(Told):
    """A header that a client is to send."""

    name: str
    description: str
    isRequired: bool
    isSecret: bool


class CardRemote(Told):
    """An address of the MCP door."""

    type: Literal["streamable-http", "sse"]
    url: str
    supportedProtocolVersions: list[str]
    headers: list[CardHeader] | Absent = None


class ServerCardObject(Told):
    """What the MCP server is, and where; the members of `_meta` are ours."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    schema_uri: str = Field(serialization_alias="$schema")
    name: str
    title: str
    version: str
    description: str
    websiteUrl: str
    remotes: list[CardRemote]
    meta: dict[str, str] = Field(serialization_alias="_meta")
    """Says that the form is a draft's."""


class ServerCard:
    """Tells of the MCP door below `public_url`; `has_sign_in` says whether clients can sign themselves in there."""

    def __init__(
        self,
        public_url: str,
        *,
        version: str,
        has_sign_in: bool,
        serves_guests: Callable[[], bool],
    ) -> None:
        self._public_url = public_url
        self._version = version
        self._has_sign_in = has_sign_in
        self._serves_guests = serves_guests

    @property
    def rows(self) -> list[AnyOperation]:
        """Where the draft has it, and where it was before."""
        return [
            page_at_root(
                path,
                name,
                "Tell what the MCP server is and where; the form is a draft of MCP's.",
                ServerCardObject,
                self.get,
                media_types=(_MEDIA_TYPE,),
                prefixes=prefixes,
                is_for_all_pages=True,
            )
            for path, name, prefixes in (
                ("/.well-known/mcp/server-card.json", "well_known_server_card", ROOT),
                ("/mcp/server-card", "server_card", PREFIXES),
            )
        ]

    async def get(self, asked: Asked[AnyQuery, Nothing]) -> Answered[ServerCardObject]:
        is_guest_let_in = self._serves_guests()
        remotes = [
            self._remote("streamable-http", MCP_PATH, is_guest_let_in=is_guest_let_in),
            self._remote("sse", f"{MCP_PATH}/sse", is_guest_let_in=is_guest_let_in),
        ]
        if is_guest_let_in:
            url = f"{self._public_url}{GUEST_MCP_PATH}"
            remotes.append(CardRemote(type="streamable-http", url=url, supportedProtocolVersions=_VERSIONS))
        card = ServerCardObject(
            schema_uri=_SCHEMA,
            name=f"{_reversed(urlsplit(self._public_url).hostname or '')}/{SERVER_NAME}",
            title=SERVER_TITLE,
            version=self._version,
            description=_DESCRIPTION,
            websiteUrl=self._public_url,
            remotes=remotes,
            meta={_DRAFT: "SEP-2127"},
        )
        return Answered(card, headers=_HEADERS)

    def _remote(self, kind: Literal["streamable-http", "sse"], path: str, *, is_guest_let_in: bool) -> CardRemote:
        header = CardHeader(
            name="Authorization",
            description="Bearer gw_live_..., an API key" + ("; or sign in" if self._has_sign_in else ""),
            isRequired=not (self._has_sign_in or is_guest_let_in),
            isSecret=True,
        )
        url = f"{self._public_url}{path}"
        return CardRemote(type=kind, url=url, supportedProtocolVersions=_VERSIONS, headers=[header])


def _reversed(host: str) -> str:
    """A host's name as namespaces have it, the widest label first; an address has no labels to turn around."""
    return host.replace(":", ".") if is_address(host) else ".".join(reversed(host.split(".")))
