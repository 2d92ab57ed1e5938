"""How pages are written: a long one lets whoever waits for the event loop have its turns meanwhile."""

from http import HTTPStatus

import pytest

from http_api.console import templates as module
from http_api.console.static_files import StaticFiles
from http_api.console.templates import MenuItem, Templates, Viewer
from mcp_gateway.core.context import SENT
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.policy_links import PolicyLinks
from tests.turns import turns_during

VALUES = {"error": GatewayError("not_found", "Nothing."), "status": HTTPStatus.NOT_FOUND, "request_id": "req_1"}
VIEWER = Viewer("ada@example.com", "owner", "acc_1", is_administrator=False)


@pytest.mark.parametrize("part", [None, "main"])
@pytest.mark.parametrize(("pieces", "fewest", "most"), [(10**6, 0, 0), (4, 1, 100), (1, 10, 400)])
async def test_others_have_their_turn_while_a_long_page_is_written(
    monkeypatch: pytest.MonkeyPatch, pieces: int, fewest: int, most: int, part: str | None
) -> None:
    templates = Templates(StaticFiles(), (MenuItem("/one", "One"),), (), PolicyLinks())
    whole = await templates.write("error.html", VALUES, part, VIEWER, {"path": "/", SENT: {}})
    monkeypatch.setattr(module, "_PIECES_WITHOUT_A_TURN", pieces)
    pages: list[str] = []

    async def write() -> None:
        pages.append(await templates.write("error.html", VALUES, part, VIEWER, {"path": "/", SENT: {}}))

    assert fewest <= await turns_during(write()) <= most
    assert pages == [whole]
