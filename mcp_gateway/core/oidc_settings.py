"""The settings of an issuer of OpenID Connect by which people and programs sign in: `[oidc]`."""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from mcp_gateway.core.caller import SCOPES, KeyScope
from mcp_gateway.core.section import CommaSeparated, Section
from mcp_gateway.core.text import one_line
from mcp_gateway.core.web_address import is_private, is_web_address

OPENID = "openid"
"""The scope without which a sign-in brings no identity."""


def _checked_issuer(text: str) -> str:
    """As it is written: tokens are compared with every character of it, and some issuers end in a slash."""
    if not is_web_address(text):
        raise ValueError("must be an address such as https://id.example.com/realms/main, as the issuer writes it")
    url = urlsplit(text)
    if url.username is not None or url.query or url.fragment:
        raise ValueError("must be an address without user name, password, `?` or `#`")
    if not is_private(text):
        raise ValueError("must be https:// where it is not on this machine")
    return text


def _checked_scope(text: str) -> str:
    if not text or not text.isascii() or not text.isprintable() or {" ", '"', "\\"} & set(text):
        raise ValueError("must be scopes such as openid, without spaces and quotes")
    return text


Line = Annotated[str, AfterValidator(one_line)]
FullLine = Annotated[Line, Field(min_length=1)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
IssuerUrl = Annotated[str, AfterValidator(_checked_issuer)]
Scopes = Annotated[tuple[Annotated[str, AfterValidator(_checked_scope)], ...], CommaSeparated]
Values = Annotated[tuple[FullLine, ...], CommaSeparated]


class OidcSettings(Section):
    """Sign-in by an issuer of OpenID Connect (docs/people.md), none without its address; needs public_url."""

    issuer: IssuerUrl | None = Field(default=None, examples=["https://id.example.com/realms/main"])
    """Its address, to the last character as it writes it in tokens; https, or http on this machine."""
    name: Line = Field(default="", examples=["Example Inc."])
    """What people know it by, for the button that leads there; otherwise its host."""
    client_id: Line = Field(default="", examples=["mcp-gateway"])
    """What it knows the gateway by; without it, programs may show its tokens, and nobody signs in with a browser."""
    client_secret_env: VariableName | None = Field(default=None, examples=["OIDC_CLIENT_SECRET"])
    """The environment variable that has the client's secret, which never stands in this file; a client that has none
    needs neither."""
    client_secret_file: FullLine | None = Field(default=None, examples=["/run/secrets/oidc"])
    """The file that has it, where that variable is not named or not set."""
    scopes: Scopes = (OPENID, "email")
    """What is asked for when somebody signs in with a browser."""
    audiences: Values = Field(default=(), examples=[["https://gateway.example.com/v1"]])
    """A program's token must be for one of these; otherwise for public_url, or /v1, /v1/mcp or /v1/mcp/sse below it, or
    the same below /api/v1/inference, with a slash at the end or not."""
    offered_scopes: Annotated[tuple[KeyScope, ...], CommaSeparated] = SCOPES
    """The gateway's scopes that the issuer knows, for which MCP clients are told to ask; [] where it knows none."""
    client_id_is_audience: bool = False
    """Let audiences have the client_id, which tokens have that tell who signed in and let nobody in elsewhere."""
    token_type: Literal["any", "at+jwt"] = "any"  # noqa: S105 - no password
    """at+jwt: refuse a program's token whose head does not say that it is one for access, as RFC 9068 has it."""
    creates_users: bool = False
    """Make a user, and an account, of everybody whom the issuer lets in and nobody here knows."""
    link_by_email: bool = False
    """Take who comes for the first time for the user with the same e-mail address, if the issuer has verified it."""
    verifies_emails: bool = False
    """Take the e-mail addresses that it tells for verified although it does not say so; any other is passed over."""
    account_claim: FullLine | None = Field(default=None, examples=["tenant"])
    """The claim by which new users come into one account: those with the same value; otherwise each has one alone."""
    role_claim: FullLine | None = Field(default=None, examples=["realm_access.roles"])
    """The claim that says what a user may, at each new token; a dot leads into an object. Otherwise the first user of
    an account is its owner, and further ones are members."""
    owners: Values = Field(default=(), examples=[["gateway-owner"]])
    """The values of role_claim that make somebody an owner of their account."""
    members: Values = Field(default=(), examples=[["gateway-user"]])
    """The same for members; who has no value of these three is not let in."""
    viewers: Values = Field(default=(), examples=[["gateway-viewer"]])
    """The same for viewers."""
    administrators: Values = Field(default=(), examples=[["gateway-admin"]])
    """The values of role_claim that let somebody run the gateway, too; where there are any, nothing else does."""
    only: bool = False
    """Switch passwords off: nobody registers or signs in but by the issuer."""

    @property
    def is_configured(self) -> bool:
        return self.issuer is not None

    @property
    def has_browser(self) -> bool:
        """Whether people sign in with a browser."""
        return self.is_configured and bool(self.client_id)

    @property
    def lets_newcomers_in(self) -> bool:
        """Whether somebody may come who has not come before."""
        return self.creates_users or self.link_by_email

    @property
    def shown_name(self) -> str:
        """What people know the issuer by."""
        return self.name or urlsplit(self.issuer or "").hostname or ""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.issuer is None and (self.client_id or self.only or self.creates_users or self.link_by_email):
            raise ValueError("needs issuer, the address of the one that lets people in")
        if self.only and not self.client_id:
            raise ValueError("only needs client_id: else nobody could sign in with a browser")
        if self.client_id and OPENID not in self.scopes:
            raise ValueError(f"scopes needs {OPENID}: without it the issuer does not say who signed in")
        return self

    @model_validator(mode="after")
    def _lets_somebody_in(self) -> Self:
        has_roles = bool(self.owners or self.members or self.viewers)
        if self.role_claim is not None and not has_roles:
            raise ValueError("role_claim needs owners, members or viewers: else nobody is let in")
        if self.role_claim is None and (has_roles or self.administrators):
            raise ValueError("owners, members, viewers and administrators need role_claim, where these values stand")
        return self
