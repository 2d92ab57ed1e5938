"""Who gives tokens for the MCP door, told by each of its addresses (RFC 9728), so that a client signs itself in.

Knows neither tokens nor their issuer, but by its name: nothing here is told where nobody gives any.
"""

from urllib.parse import urlsplit

from http_api.operations import Absent, Answered, AnyOperation, Asked, Nothing, Told, page_at_root
from http_api.query import AnyQuery
from mcp_gateway.core.caller import KeyScope
from mcp_gateway.core.config import Settings
from mcp_gateway.core.identity.oauth.authorization import GRANTED_SCOPE
from mcp_gateway.core.mcp_paths import MCP_PATH, MCP_PATHS
from mcp_gateway.server import SERVER_TITLE

_WELL_KNOWN = "/.well-known/oauth-protected-resource"
_FOR_ALL_PAGES = ((b"access-control-allow-origin", b"*"), (b"cache-control", b"max-age=300"))


class ProtectedResourceObject(Told):
    """One address of the MCP door, and who gives tokens for it."""

    resource: str
    authorization_servers: list[str]
    scopes_supported: list[KeyScope] | Absent = None
    bearer_methods_supported: list[str]
    resource_name: str


class ProtectedResources:
    """The addresses of the MCP door below `public_url`, where `authorization_servers` give tokens for them.

    `scopes` are those of the gateway that these servers know, and so can be asked for. Each address has a document
    about itself, whose URL has its path inserted; the document without a path is that of the address which people are
    given, for clients that look for no other.
    """

    def __init__(self, public_url: str, authorization_servers: tuple[str, ...], scopes: tuple[KeyScope, ...]) -> None:
        self._public_url = public_url
        self._servers = authorization_servers
        self.scopes = scopes
        public = urlsplit(public_url)
        self._origin, self._above = f"{public.scheme}://{public.netloc}", public.path
        self._told_at = {f"{_WELL_KNOWN}{self._above}{path}": path for path in MCP_PATHS} | {_WELL_KNOWN: MCP_PATH}
        self._metadata_urls = {path: f"{self._origin}{_WELL_KNOWN}{self._above}{path}" for path in MCP_PATHS}
        self._resources = {path: public_url + path for path in MCP_PATHS}
        for path in [path for path in MCP_PATHS if path.endswith("/sse")]:
            for messages in ("/messages", "/messages/"):  # of a session whose address is the stream's
                behind = path.removesuffix("/sse") + messages
                self._metadata_urls[behind] = self._metadata_urls[path]
                self._resources[behind] = self._resources[path]

    @classmethod
    def of(cls, settings: Settings) -> "ProtectedResources | None":
        """None where nobody gives tokens for them."""
        oidc, public_url = settings.oidc, settings.public_url
        if public_url is None:
            return None
        if settings.oauth.enabled:
            return cls(public_url, (public_url,), (GRANTED_SCOPE,))
        return None if oidc.issuer is None else cls(public_url, (oidc.issuer,), oidc.offered_scopes)

    @property
    def rows(self) -> list[AnyOperation]:
        """The operations that tell of the addresses."""
        return [
            page_at_root(
                at,
                "protected_resource" + path.replace("/", "_") if at != _WELL_KNOWN else "protected_resource",
                f"Tell who gives tokens for {path}.",
                ProtectedResourceObject,
                self.get,
                is_for_all_pages=True,
            )
            for at, path in self._told_at.items()
        ]

    def metadata_url_of(self, path: str) -> str | None:
        """Of the document about what is served at a path; None where that is no part of the MCP door."""
        return self._metadata_urls.get(path)

    def resource_at(self, path: str) -> str | None:
        """The address by which a token names what is served at a path; None where that is no part of the MCP door."""
        return self._resources.get(path)

    async def get(self, asked: Asked[AnyQuery, Nothing]) -> Answered[ProtectedResourceObject]:
        """The address is the one asked about, byte for byte: clients compare it with what a person typed."""
        told = {"scopes_supported": list(self.scopes)} if self.scopes else {}
        document = ProtectedResourceObject(
            resource=self._public_url + self._told_at[asked.scope["path"]],
            authorization_servers=list(self._servers),
            bearer_methods_supported=["header"],
            resource_name=SERVER_TITLE,
            **told,
        )
        return Answered(document, headers=_FOR_ALL_PAGES)
