"""All that a gateway has of its issuer, put together of the settings."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from mcp_gateway.core.config import ConfigError, Settings
from mcp_gateway.core.engine import Engine
from mcp_gateway.core.identity.oidc.arrivals import Arrivals
from mcp_gateway.core.identity.oidc.browser_sign_in import BrowserSignIn
from mcp_gateway.core.identity.oidc.issued_tokens import IssuedTokens
from mcp_gateway.core.identity.oidc.issuer import ACCESS_TOKEN_TYPES, AT_JWT_ONLY, Issuer
from mcp_gateway.core.identity.oidc.issuer_http import IssuerHttp
from mcp_gateway.core.named_secret import read_secret
from mcp_gateway.core.oidc_settings import OidcSettings


class Oidc(NamedTuple):
    """The issuer, who comes by it, the tokens that programs show of it, and how people sign in there."""

    settings: OidcSettings
    issuer: Issuer
    arrivals: Arrivals
    tokens: IssuedTokens
    browser: BrowserSignIn | None
    """None where the issuer does not know the gateway as a client."""

    async def aclose(self) -> None:
        await self.issuer.http.aclose()


def client_secret_of(settings: OidcSettings, environ: Mapping[str, str]) -> str | None:
    """Raises ConfigError for one that is named and not there."""
    if settings.client_secret_env is None and settings.client_secret_file is None:
        return None
    try:
        return read_secret(
            settings.client_secret_env, settings.client_secret_file, environ, setting="client_secret_file"
        )
    except ValueError as fault:
        raise ConfigError([f"[oidc] {fault}"]) from None


def oidc_of(
    settings: Settings,
    store: Engine,
    client_secret: str | None,
    *,
    new_id: Callable[[str], str],
    now_ms: Callable[[], int],
) -> Oidc | None:
    """None where nobody is let in by an issuer."""
    chosen = settings.oidc
    if chosen.issuer is None:
        return None
    issuer = Issuer(chosen.issuer, IssuerHttp(), now_ms=now_ms)
    arrivals = Arrivals(store, chosen, new_id=new_id, now_ms=now_ms)
    tokens = IssuedTokens(
        issuer,
        arrivals,
        audiences=settings.oidc_audiences,
        types=AT_JWT_ONLY if chosen.token_type == "at+jwt" else ACCESS_TOKEN_TYPES,  # noqa: S105 - no password
        offered_scopes=chosen.offered_scopes,
        now_ms=now_ms,
    )
    browser = None
    if chosen.has_browser and settings.public_url is not None:
        browser = BrowserSignIn(
            chosen, issuer, client_secret=client_secret, public_url=settings.public_url, now_ms=now_ms
        )
    return Oidc(chosen, issuer, arrivals, tokens, browser)
