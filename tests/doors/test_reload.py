"""The configuration read again while the gateway serves: what is swapped, what is not, and that no request is lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from mcp_gateway.core.audit.log import Actor
from mcp_gateway.core.config import ConfigError, Settings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.reloadable import RELOADED, compare, taken_over
from mcp_gateway.core.upstream.backend import Backend
from mcp_gateway.core.upstream.pool import Pool
from tests.cases import each
from tests.databases import locked_out, store_of
from tests.patience import becomes
from tests.recorded import recorded, write_records
from tests.replaying import ReplayingBackend, held, unary, whole
from tests.serving import FREE, PRICED, Door, bearer, error_of, open_door

DEAR = PRICED | {"pricing": {"prompt": "0.000003", "completion": "0.000007"}}


class Reloaded:
    """A served gateway whose configuration a test changes."""

    def __init__(self) -> None:
        self.door: Door
        self.admin = ""
        self.fault: ConfigError | None = None
        self.changes: dict[str, Any] = {}

    def load(self) -> Settings:
        if self.fault is not None:
            raise self.fault
        base = self.door.gateway.settings.model_dump(exclude_unset=True)
        return Settings.model_validate(base | self.changes)

    async def reload(self, **changes: Any) -> Any:
        self.changes = changes
        return await self.door.http.post("/v1/admin/reload", headers=bearer(self.admin))


@pytest_asyncio.fixture
async def served(tmp_path_factory: pytest.TempPathFactory, backend: ReplayingBackend) -> AsyncIterator[Reloaded]:
    reloaded = Reloaded()
    async with open_door(
        tmp_path_factory.mktemp("reload"), vllm_urls=[backend.url], models=[FREE, PRICED], load=reloaded.load
    ) as door:
        reloaded.door, reloaded.admin = door, await door.admin_key()
        yield reloaded
        await door.nothing_is_left()


async def test_models_and_prices_are_others_for_the_next_request(served: Reloaded, backend: ReplayingBackend) -> None:
    door = served.door
    key = await door.key(credit="5")
    told = (await served.reload(models=[DEAR])).json()
    assert told == {"object": "reload", "changed": ["models"], "needs_restart": []}
    assert error_of(await door.chat(key))["code"] == "model_not_found"
    backend.answer_with(unary(1000, 10))
    assert (await door.chat(key, model=PRICED["id"])).headers["x-cost-usd"] == "0.00307"
    assert (await door.get("/v1/admin/prices", served.admin)).json()["data"][0]["pricing"]["prompt"] == "0.000003"


async def test_a_request_that_runs_keeps_its_price(served: Reloaded, backend: ReplayingBackend) -> None:
    door = served.door
    key = await door.key(credit="5")
    release = asyncio.Event()
    backend.answer_with(held(release, unary(1000, 10)))
    asking = asyncio.create_task(door.chat(key, model=PRICED["id"]))
    await backend.chats_asked(1)
    assert (await served.reload(models=[DEAR])).status_code == 200
    release.set()
    assert (await asking).headers["x-cost-usd"] == "0.000307"


async def test_limits_count_at_once_also_for_keys_that_were_shown(served: Reloaded) -> None:
    door = served.door
    key = (await door.gateway.keys.create(await door.account()))[1]
    assert (await door.chat(key)).headers["x-ratelimit-limit-requests"] == "60"
    await served.reload(limits={"requests_per_minute": 2})
    assert (await door.chat(key)).headers["x-ratelimit-limit-requests"] == "2"
    assert (await door.chat(key)).status_code == 429


async def test_guests_are_let_in_no_more_and_the_document_says_so(served: Reloaded) -> None:
    door = served.door
    assert (await door.chat()).status_code == 200
    assert {} in (await door.get("/openapi.json")).json()["paths"]["/v1/chat/completions"]["post"]["security"]
    await served.reload(guests={"enabled": False})
    assert error_of(await door.chat())["code"] == "missing_credentials"
    assert {} not in (await door.get("/openapi.json")).json()["paths"]["/v1/chat/completions"]["post"]["security"]


async def test_the_reference_says_so_too_whichever_way_guests_are_turned(served: Reloaded) -> None:
    for serves_guests in (True, False, True):
        await served.reload(guests={"enabled": serves_guests})
        page = (await served.door.get("/docs")).text
        section = page.partition("<h3 id='chat'>")[2].partition("</section>")[0]
        assert ("may be sent, or none." in section, "Needs a key" in section) == (serves_guests, not serves_guests)


async def test_the_incident_is_told(served: Reloaded) -> None:
    await served.reload(incident="One server is down.")
    assert (await served.door.get("/v1/stats")).json()["incident"] == "One server is down."


async def test_a_new_backend_is_asked_from_then_on_and_one_that_was_taken_out_no_more(served: Reloaded) -> None:
    door = served.door
    async with ReplayingBackend() as other:
        told = (await served.reload(vllm_urls=[other.url])).json()
        assert told["changed"] == ["vllm_urls"]
        assert (await door.chat(await door.key())).status_code == 200
        assert len(other.chats) == 1
        assert [one.name for one in door.gateway.pool.backends] == ["vllm-1"]


async def test_a_backend_that_stays_keeps_what_is_known_of_it(served: Reloaded, backend: ReplayingBackend) -> None:
    pool = served.door.gateway.pool
    (before,) = pool.backends
    async with ReplayingBackend() as other:
        await served.reload(vllm_urls=[other.url, backend.url])
        assert pool.backends[1] is before
        assert [one.name for one in pool.backends] == ["vllm-2", "vllm-1"]


async def test_who_answered_is_told_by_the_name_of_a_new_provider(served: Reloaded) -> None:
    door = served.door
    account = await door.account()
    record = recorded(now_ms(), account_id=account, backend="far")
    await write_records(store_of(door.gateway), record)
    far = {"name": "far", "kind": "openai", "base_url": "http://127.0.0.1:9", "auth": "none"}
    assert (await served.reload(providers=[far])).json()["changed"] == ["providers"]
    told = await door.get(f"/v1/generation?id={record.id}", await door.key(account))
    assert told.json()["data"]["provider_name"] == "far"


async def test_a_request_that_runs_speaks_to_a_provider_as_it_did_when_it_began(
    served: Reloaded, backend: ReplayingBackend
) -> None:
    def at(name: str, **differs: Any) -> dict[str, Any]:
        return {"name": name, "kind": "openai", "base_url": f"{backend.url}/v1", "auth": "none"} | differs

    door, release = served.door, asyncio.Event()
    two = [{"provider": name, "backend_model": "tiny"} for name in ("one", "two")]
    chosen = {"models": [FREE | {"candidates": two}]}
    await served.reload(providers=[at("one"), at("two", output_limit="max_tokens")], **chosen)
    backend.answer_with(held(release, whole(b"{}", 500)), unary(), unary())
    key = await door.key()
    asking = asyncio.create_task(door.chat(key, max_tokens=7))
    await backend.chats_asked(1)
    await served.reload(providers=[at("one"), at("two", output_limit="max_completion_tokens")], **chosen)
    release.set()
    assert (await asking).status_code == 200
    assert (await door.chat(key, max_tokens=7, provider={"only": ["two"]})).status_code == 200
    limits = [{name: asked.json[name] for name in asked.json if name.startswith("max_")} for asked in backend.chats]
    assert limits[1:] == [{"max_tokens": 7}, {"max_completion_tokens": 7}]


async def test_what_waits_for_a_restart_is_named_and_stays(served: Reloaded) -> None:
    told = (await served.reload(port=9, max_header_bytes=2048, guests={"max_json_values": 3, "max_tokens": 9})).json()
    assert told["changed"] == ["guests.max_tokens"]
    assert told["needs_restart"] == ["port", "max_header_bytes", "guests.max_json_values"]
    settings = served.door.gateway.settings
    assert (settings.max_header_bytes, settings.guests.max_tokens) == (64 * 1024, 9)
    assert settings.guests.max_json_values != 3


async def test_a_bad_configuration_changes_nothing_and_is_told(served: Reloaded) -> None:
    before = served.door.gateway.settings
    served.fault = ConfigError(["gateway.toml: models.0.id: is missing"])
    refused = await served.reload()
    assert (refused.status_code, error_of(refused)["code"]) == (400, "invalid_value")
    assert "models.0.id" in error_of(refused)["message"]
    with pytest.raises(GatewayError) as told:
        await (await served.door.desk()).server.reload()
    assert "models.0.id" in told.value.message
    served.fault = None
    keyless = {"name": "far", "kind": "openai", "base_url": "http://127.0.0.1:9", "api_key_env": "NO_SUCH_KEY"}
    refused = await served.reload(providers=[keyless])
    assert "NO_SUCH_KEY" in error_of(refused)["message"]
    assert served.door.gateway.settings is before
    assert (await served.door.chat(await served.door.key())).status_code == 200
    served.door.errors.clear()


async def test_it_is_noted_who_had_it_read(served: Reloaded) -> None:
    await served.reload(incident="x")
    desk = await served.door.desk()
    assert (await desk.server.reload())["changed"] == []
    told = (await served.door.get("/v1/admin/audit?action=config.reload", served.admin)).json()["data"]
    assert [row["by"]["kind"] for row in told] == ["shell", "admin_key"]
    assert told[1]["before"] == {"incident": None}
    assert told[1]["after"] == {"changed": ["incident"], "needs_restart": [], "values": {"incident": "x"}}
    assert (told[0]["before"], told[0]["after"]["values"]) == ({}, {})


async def test_of_what_was_changed_it_is_noted_how_it_was_and_is_without_secrets(served: Reloaded) -> None:
    far = {"name": "far", "kind": "openai", "base_url": "http://127.0.0.1:9", "auth": "none"}
    await served.reload(providers=[far | {"headers": {"x-team": "first-secret"}}], models=[FREE, PRICED])
    changed = {"models": [FREE, DEAR], "guests": {"max_tokens": 9}, "vllm_api_key": "second-secret"}
    await served.reload(providers=[far | {"headers": {"x-team": "third-secret"}}], **changed)
    noted = (await served.door.get("/v1/admin/audit?action=config.reload", served.admin)).json()["data"][0]
    was, now = noted["before"], noted["after"]["values"]
    assert list(was) == list(now) == noted["after"]["changed"]
    assert {name: entries.keys() for name, entries in now.items() if isinstance(entries, dict)} == {
        "providers": {"far"}, "models": {PRICED["id"]}
    }  # fmt: skip
    prices = [told["models"][PRICED["id"]]["pricing"]["prompt"] for told in (was, now)]
    assert prices == [PRICED["pricing"]["prompt"], DEAR["pricing"]["prompt"]]
    assert (was["vllm_api_key"], now["vllm_api_key"], now["guests.max_tokens"]) == (None, "**********", 9)
    assert now["providers"]["far"]["headers"] == {"x-team": "**********"}
    assert "secret" not in str(noted)
    removed = (await served.reload(models=[FREE])).json()["changed"]
    last = (await served.door.get("/v1/admin/audit?action=config.reload", served.admin)).json()["data"][0]
    assert "models" in removed
    assert (list(last["before"]["models"]), last["after"]["values"]["models"]) == ([PRICED["id"]], {})


async def test_without_a_server_there_is_nobody_to_read_it(served: Reloaded, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = await served.door.desk()

    class Alone:
        def __enter__(self) -> bool:
            return True

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(desk.server, "_alone", Alone)
    with pytest.raises(GatewayError):
        await desk.server.reload()


async def test_no_request_is_lost_while_it_is_read_again_and_again(served: Reloaded, backend: ReplayingBackend) -> None:
    """Backends, prices and limits change under requests of both kinds, whole and streamed."""
    door, is_over = served.door, asyncio.Event()
    key = await door.key(credit="50")
    statuses: list[int] = []

    async def ask_on(**fields: Any) -> None:
        while not is_over.is_set():
            statuses.append((await door.chat(key, **fields)).status_code)

    async with ReplayingBackend() as other:
        asking = [
            asyncio.create_task(ask_on(model=model, stream=stream))
            for model in (FREE["id"], PRICED["id"])
            for stream in (False, True)
        ]
        for turn in range(12):
            urls = [[backend.url], [other.url], [backend.url, other.url]][turn % 3]
            changes = {"vllm_urls": urls, "models": [FREE, DEAR if turn % 2 else PRICED]}
            assert (await served.reload(**changes)).status_code == 200
        is_over.set()
        await asyncio.gather(*asking)
        assert set(statuses) == {200}
        assert len(statuses) > len(asking)
        await served.reload(vllm_urls=[backend.url])
    assert await door.gateway.ledger.check() == []


async def test_during_an_outage_of_the_database_it_is_in_force_and_noted_later(served: Reloaded) -> None:
    door = served.door
    async with locked_out(door.gateway, wait_s=0.05):
        assert (await served.reload(incident="The database is down.")).json()["changed"] == ["incident"]
        assert door.gateway.settings.incident == "The database is down."

    async def noted_by_now() -> list[Any]:
        rows: list[Any] = (await door.get("/v1/admin/audit?action=config.reload", served.admin)).json()["data"]
        return rows

    (noted,) = await becomes(noted_by_now, bool)
    assert noted["after"]["changed"] == ["incident"]
    door.errors.clear()


@pytest.mark.parametrize("fault", [RuntimeError("odd"), asyncio.CancelledError()])
async def test_new_backends_of_a_reload_that_fails_are_closed(
    served: Reloaded, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    gateway = served.door.gateway
    before, found = gateway.settings, list[Backend]()

    discover = Pool.discover

    async def fails(pool: Pool, backends: list[Backend]) -> None:
        found.extend(backends)
        await discover(pool, backends)
        raise fault

    async with ReplayingBackend() as other:
        served.changes = {"vllm_urls": [other.url]}
        monkeypatch.setattr(Pool, "discover", fails)
        with pytest.raises(type(fault)):
            await gateway.reload(Actor("shell", "x", "x"))
        (backend,) = found
        assert backend.origin._is_closed  # type: ignore[attr-defined]
        assert gateway.settings is before


def test_what_is_taken_over_are_settings_that_there_are() -> None:
    for name in RELOADED:
        setting: Any = Settings()
        for part in name.split("."):
            setting = getattr(setting, part)


@each(
    ("change", "takes_over"),
    [
        ({"incident": "x"}, True),
        ({"limits": {"in_flight": 3}}, True),
        ({"limits": {"report_timeout_s": 3}}, False),
        ({"drain_timeout_s": 3}, False),
        ({"routing": {"optimize": "cost"}}, False),
    ],
)
def test_a_setting_is_taken_over_or_named(change: dict[str, Any], takes_over: bool) -> None:
    before, after = Settings(), Settings.model_validate(change)
    told, settings = compare(before, after), taken_over(before, after)
    assert bool(told.changed) is takes_over
    assert bool(told.needs_restart) is not takes_over
    assert (settings == after) is takes_over
    assert (settings == before) is not takes_over
