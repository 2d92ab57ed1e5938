"""A gateway on PostgreSQL that is away, as its callers see it: they are told to come again, and never that they owe."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_gateway.core.identity.keys import LIVE_PREFIX
from tests.patience import becomes
from tests.postgres_server import PostgresServer
from tests.replaying import ReplayingBackend
from tests.serving import FREE, PRICED, UNLIMITED, Clock, open_door

NOBODYS = LIVE_PREFIX + "x" * 43
pytestmark = [pytest.mark.engines, pytest.mark.usefixtures("answers_in_time")]


@pytest.fixture
def own() -> Iterator[PostgresServer]:
    """A server that a test may end."""
    server = PostgresServer()
    yield server
    server.end()


async def test_callers_are_told_to_come_again_and_are_served_once_it_is_back(
    own: PostgresServer, tmp_path: Path
) -> None:
    async with ReplayingBackend() as backend:
        settings = {"vllm_urls": [backend.url], "models": [FREE, PRICED], "database_url": own.url("postgres")}
        async with open_door(tmp_path, Clock(), **settings) as door:
            known, unknown = await door.key(limits=UNLIMITED, credit="5"), await door.key(limits=UNLIMITED, credit="5")
            assert (await door.chat(known, model=PRICED["id"])).status_code == 200
            own.stop("immediate")
            await becomes(lambda: door.http.get("/health"), lambda told: told.status_code == 503)
            for key in (known, unknown, NOBODYS, known):
                told = await door.chat(key, model=PRICED["id"])
                assert told.status_code == 503, told.text
                assert 1 <= int(told.headers["retry-after"]) <= 60
            own.start()
            for key in (known, unknown):
                await becomes(
                    lambda key=key: door.chat(key, model=PRICED["id"]),  # type: ignore[misc]
                    lambda told: told.status_code == 200,
                )
            assert (await door.chat(NOBODYS)).status_code == 401
