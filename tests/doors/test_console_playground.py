"""The playground without a browser: who is shown it, and which models it offers."""

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.serving import FREE, PRICED, Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
ODD = FREE | {"id": "odd//model:free"}
EMBEDDER = FREE | {"id": "an/embedder", "task": "embed"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("playground"), models=[FREE, PRICED, ODD, EMBEDDER]) as door:
        yield door
        await door.nothing_is_left()


async def test_it_offers_the_models_that_chat_and_begins_with_the_one_that_was_asked_for(door: Door) -> None:
    page = (await door.get("/console/playground?model=odd//model:free", await door.person())).text
    offered = re.findall(r'<option value="([^"]+)"( selected)?>', page)
    assert [model for model, _ in offered] == ["free/tiny", "priced/tiny", "odd//model:free", "auto"]
    assert [model for model, is_chosen in offered if is_chosen] == ["odd//model:free"]
    assert "This page needs scripts" in page


async def test_it_is_for_who_is_signed_in_and_may_ask(door: Door) -> None:
    assert (await door.get("/console/playground")).status_code == 303
    viewer = await door.person(role="viewer")
    assert (await door.get("/console/playground", viewer)).status_code == 403
