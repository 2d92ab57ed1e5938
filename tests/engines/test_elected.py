"""Several gateways on one PostgreSQL and Valkey: what one of them does for all, and what all of them do."""

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from mcp_gateway.core.config import ConfigError, Settings
from tests.patience import PATIENCE_S, becomes
from tests.postgres_stores import lent_database
from tests.program import Program, running_program
from tests.replaying import ReplayingBackend
from tests.serving import FREE, Door, bearer, error_of, open_door

pytestmark = pytest.mark.engines


@pytest.fixture
def database_url() -> Iterator[str]:
    with lent_database() as lent:
        yield lent


class Reread:
    """What each of two served gateways reads again."""

    def __init__(self) -> None:
        self.doors: list[Door] = []
        self.changes: list[dict[str, Any]] = [{}, {}]
        self.faults: list[str | None] = [None, None]

    def load(self, number: int) -> Settings:
        if (fault := self.faults[number]) is not None:
            raise ConfigError([fault])
        base = self.doors[number].gateway.settings.model_dump(exclude_unset=True)
        return Settings.model_validate(base | self.changes[number])


@pytest.fixture
async def reread(tmp_path: Path, database_url: str, valkey_url: str) -> AsyncIterator[Reread]:
    both = Reread()
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(ReplayingBackend())
        for number in range(2):
            door = await stack.enter_async_context(
                open_door(
                    tmp_path / str(number),
                    vllm_urls=[backend.url],
                    models=[FREE],
                    database_url=database_url,
                    valkey_url=valkey_url,
                    load=lambda number=number: both.load(number),
                )
            )
            both.doors.append(door)
        yield both


async def test_a_configuration_is_read_again_by_all_whichever_is_asked(reread: Reread) -> None:
    one, two = reread.doors
    admin = bearer(await one.admin_key())
    reread.changes = [{"incident": "A server is down."}] * 2
    told = (await two.http.post("/v1/admin/reload", headers=admin)).json()
    assert told == {"object": "reload", "changed": ["incident"], "needs_restart": []}
    assert [door.gateway.settings.incident for door in reread.doors] == ["A server is down."] * 2
    entries = (await one.http.get("/v1/admin/audit?action=config.reload", headers=admin)).json()["data"]
    assert [entry["by"]["kind"] for entry in entries] == ["admin_key", "admin_key"]

    reread.changes[0], reread.faults[1] = {"incident": "It is up again."}, "models.0.id: is missing"
    refused = await one.http.post("/v1/admin/reload", headers=admin)
    assert (refused.status_code, error_of(refused)["code"]) == (409, "conflict")
    message = error_of(refused)["message"]
    assert (f"replica {two.gateway.replica()}: " in message, "models.0.id: is missing" in message) == (True, True)
    assert one.gateway.settings.incident == "It is up again."


def configured(folder: Path, database_url: str, valkey_url: str) -> Path:
    folder.mkdir()
    values = {"port": 0, "data_dir": str(folder), "database_url": database_url, "valkey_url": valkey_url}
    (folder / "gateway.toml").write_text(
        "".join(f"{name} = {orjson.dumps(value).decode()}\n" for name, value in values.items())
    )
    return folder / "gateway.toml"


async def is_elected(program: Program) -> bool:
    async with httpx2.AsyncClient(base_url=program.url, timeout=PATIENCE_S) as http:
        page = (await http.get("/metrics")).text
    return page.partition("\ngateway_elected ")[2].startswith("1")


async def elected(programs: list[Program]) -> list[bool]:
    return [await is_elected(one) for one in programs]


async def test_another_is_elected_for_one_that_is_frozen_and_killed_and_none_beside_it(
    tmp_path: Path, database_url: str, valkey_url: str
) -> None:
    async with AsyncExitStack() as stack:
        programs = [
            await stack.enter_async_context(running_program(configured(tmp_path / name, database_url, valkey_url)))
            for name in ("one", "two")
        ]
        first, second = programs
        assert await becomes(lambda: elected(programs), any) == [True, False]
        first.process.send_signal(signal.SIGSTOP)
        await becomes(lambda: is_elected(second), bool)
        first.process.send_signal(signal.SIGCONT)
        assert await elected(programs) == [False, True]
        second.process.kill()
        await second.process.wait()
        await becomes(lambda: is_elected(first), bool)
        await first.end()
