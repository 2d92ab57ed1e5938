"""The certified `oidc-provider` and the gateway: who signs in there is known here."""

import httpx2
import jwt
import pytest

from tests.clients.oidc_provider import new_key, served_oidc_provider

pytestmark = pytest.mark.slow

RESOURCE = "http://gateway.test/v1"


def test_a_program_gets_a_token_that_is_signed_by_the_first_of_the_published_keys() -> None:
    newest, older = new_key("2"), new_key("1")
    with httpx2.Client() as http, served_oidc_provider("http://127.0.0.1:1", keys=[newest, older]) as provider:
        token = provider.access_token(http, RESOURCE)
        published = jwt.PyJWKSet.from_dict(http.get(f"{provider.issuer}/jwks").json())
    assert jwt.get_unverified_header(token)["typ"] == "at+jwt"
    claims = jwt.decode(token, published["2"], audience=RESOURCE, issuer=provider.issuer)
    assert claims["scope"] == "inference read billing manage"
