"""Grants, write by write: what nobody was given is useless, and changes nothing."""

import pytest

from mcp_gateway.core.engine import Write
from mcp_gateway.core.identity.oauth.grants import GrantExchange, RedeemCode, RefreshGrant
from mcp_gateway.core.identity.oauth.refusals import OAuthRefusal
from mcp_gateway.core.store.sqlite.store import Store
from tests.cases import each

AT_MS = 1_000


@each(
    "write",
    [
        RedeemCode(
            b"code", "client", "http://127.0.0.1/back", "verifier", None, AT_MS, b"access", b"family", b"refresh"
        ),
        RefreshGrant(b"family", b"refresh", "client", None, AT_MS, b"access", b"next"),
    ],
)
async def test_a_code_or_a_token_that_nobody_was_given_is_refused(store: Store, write: Write[GrantExchange]) -> None:
    with pytest.raises(OAuthRefusal) as raised:
        await store.write(write)
    assert raised.value.error == "invalid_grant"
