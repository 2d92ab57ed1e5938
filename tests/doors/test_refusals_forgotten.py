"""What a request with unknown keys had in memory is let go of when it ends, and does not wait for the collector."""

import gc
from pathlib import Path

import pytest

from mcp_gateway.core.errors import GatewayError
from tests.patience import eventually
from tests.serving import bearer, chat_body, open_door

UNKNOWN = [f"gw_live_{letter * 43}" for letter in "ABC"]
OURS = "ours"


def refusals_kept() -> list[GatewayError]:
    return [it for it in gc.get_objects() if isinstance(it, GatewayError) and it.__traceback__ is not None]


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (bearer(UNKNOWN[0]), 401),
        (bearer(UNKNOWN[0]) | {"x-api-key": UNKNOWN[1]}, 401),
        ({"x-api-key": UNKNOWN[0], "api-key": UNKNOWN[1], "x-goog-api-key": UNKNOWN[2]}, 401),
        (bearer(UNKNOWN[0]) | {"x-api-key": OURS}, 200),
        (bearer(UNKNOWN[0]) | {"x-api-key": UNKNOWN[1], "api-key": OURS}, 200),
    ],
)
async def test_no_refusal_of_a_key_is_kept(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async with open_door(tmp_path) as door:
        key = await door.key()
        sent = {name: key if value == OURS else value for name, value in headers.items()}
        response = await door.http.post("/v1/chat/completions", headers=sent, json=chat_body(model="demo/echo"))
        assert response.status_code == status
        await eventually(lambda: not refusals_kept())
