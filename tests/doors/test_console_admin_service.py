"""The console's pages of the whole service: who answers, what is switched and set, and the keys of administrators."""

import csv
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from mcp_gateway.core.config import ConfigError, Settings
from mcp_gateway.core.identity.admin_keys import AdminKeys
from mcp_gateway.core.ids import new_id, now_ms
from tests.databases import store_of
from tests.doors.test_console_admin import HOSTILE, Administration
from tests.doors.test_console_admin_people import noted
from tests.serving import FREE, PRICED, Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
OVERVIEW = "/console/admin/overview"
KEYS = "/console/admin/admins"
PROVIDER = {
    "name": "work", "kind": "openai", "base_url": "http://127.0.0.1:9", "auth": "none",
    "headers": {"x-team-token": "teams-own-secret"},
}  # fmt: skip
TIER = {"above_prompt_tokens": 200_000, "prompt": "6", "completion": "8"}
MODELS = [
    FREE,
    PRICED | {"id": "org/million", "pricing": {"per_million": True, "prompt": "3", "completion": "4", "tiers": [TIER]}},
    {"id": "org/unpriced"},
    {"id": "org/sold", "max_output_tokens": 100, "context_window": 1000, "candidates": [
        {"provider": "work", "pricing": {"prompt": "0.000001", "completion": "0.000002", "request": "0.001"}}
    ]},
]  # fmt: skip


class Configured:
    """What the file of the gateway says from now on."""

    changes: dict[str, Any] | ConfigError
    now: Settings

    def load(self) -> Settings:
        if isinstance(self.changes, ConfigError):
            raise self.changes
        return Settings.model_validate(self.now.model_dump(exclude_unset=True) | self.changes)


@pytest.fixture(scope="module")
def configured() -> Configured:
    return Configured()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory, configured: Configured) -> AsyncIterator[Door]:
    async with open_door(
        tmp_path_factory.mktemp("service"),
        models=MODELS,
        providers=[PROVIDER],
        operator_token="operators-own-secret",
        load=configured.load,
    ) as door:
        configured.now = door.gateway.settings
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module")
async def admin(door: Door) -> Administration:
    return Administration(door, await door.person(is_administrator=True), await door.account())


async def test_the_overview_says_who_answers_for_what(admin: Administration) -> None:
    begun = await admin.get("/console/admin")
    assert (begun.status_code, begun.headers["location"]) == (303, OVERVIEW)
    page = (await admin.get(OVERVIEW)).text
    told = (await admin.door.get("/v1/admin/backends", admin.token)).json()
    assert told["version"] in page
    assert [(one["name"], one["kind"], one["in_flight"]) for one in told["data"]][-1] == ("work", "provider", 0)
    assert {one["kind"] for one in told["data"]} == {"backend", "provider"}
    for name in (*(one["name"] for one in told["data"]), *(one["id"] for one in told["models"])):
        assert name in page
    sold = next(one for one in told["models"] if one["id"] == "org/sold")
    assert sold["served_by"] == [{"backend": "work", "name": "org/sold", "serves": True}]
    assert "org/unpriced" not in {one["id"] for one in told["models"]}


async def test_maintenance_and_an_incident_are_switched_and_noted(admin: Administration) -> None:
    for _ in range(2):  # the same form twice
        switched = await admin.send(f"{OVERVIEW}/maintenance", enabled="true")
        assert (switched.status_code, switched.headers["location"]) == (303, f"{OVERVIEW}?changed=1")
    page = (await admin.get(switched.headers["location"])).text
    assert ("refused: maintenance" in page, "Switch maintenance off" in page, "Done; it counts" in page) == (True,) * 3
    assert (await admin.send(f"{OVERVIEW}/maintenance", enabled="false")).status_code == 303
    assert (await admin.send(f"{OVERVIEW}/incident", text=HOSTILE)).status_code == 303
    page = (await admin.get(OVERVIEW)).text
    assert (HOSTILE in page, "&lt;script&gt;" in page, "Tell the update" in page) == (False, True, True)
    assert (await admin.send(f"{OVERVIEW}/incident", text="A disk is changed.")).status_code == 303
    refused = await admin.send(f"{OVERVIEW}/incident", text="x" * 501)
    assert (refused.status_code, 'id="text-error"' in refused.text, "x" * 501 in refused.text) == (400, True, True)
    assert (await admin.send(f"{OVERVIEW}/incident/remove")).status_code == 303
    assert (await admin.door.get("/v1/admin/service", admin.token)).json()["incident"] is None
    assert await noted(admin, "gateway") == ["service.incident"] * 3 + ["service.maintenance"] * 2


async def test_what_was_read_again_is_named_or_why_it_was_refused(
    admin: Administration, configured: Configured
) -> None:
    configured.changes = {"incident": "Planned work.", "port": 1}
    done = await admin.send(f"{OVERVIEW}/reload")
    assert done.status_code == 200, done.text
    assert ("<code>incident</code>" in done.text, "<code>port</code>" in done.text) == (True, True)
    assert "stands in the configuration" in done.text
    assert "was read again" not in (await admin.get(OVERVIEW)).text
    configured.changes = ConfigError([f"models: {HOSTILE} is no model"])
    refused = await admin.send(f"{OVERVIEW}/reload")
    assert (refused.status_code, 'role="alert"' in refused.text, HOSTILE in refused.text) == (400, True, False)
    admin.door.errors.clear()  # why it was refused is in the log, too
    configured.changes = {}
    assert "<code>incident</code>" in (await admin.send(f"{OVERVIEW}/reload")).text
    told = (await admin.door.get("/v1/admin/audit?action=config.reload", admin.token)).json()["data"]
    me = (await admin.door.get("/auth/me", admin.token)).json()["id"]
    assert {entry["by"]["id"] for entry in told} == {me}


async def test_prices_are_those_of_the_configuration_and_none_is_said_to_be_none(admin: Administration) -> None:
    page = (await admin.get("/console/admin/prices")).text
    assert ("no price: free" in page, "no price set" in page) == (True, True)
    for shown in ("$3.00", "$8.00", "$1.00", "at work", "above <data", "a request"):
        assert shown in page, shown
    table = await admin.get("/console/admin/prices.csv")
    rows = {(row["model"], row["above_prompt_tokens"]): row for row in csv.DictReader(io.StringIO(table.text))}
    assert rows["org/million", ""]["prompt_usd"] == "0.000003"
    assert rows["org/million", "200000"]["completion_usd"] == "0.000008"
    assert (rows["org/sold", ""]["provider"], rows["org/unpriced", ""]["prompt_usd"]) == ("work", "")
    file = await admin.get("/console/admin/prices.json")
    assert file.json() == (await admin.door.get("/v1/admin/prices", admin.token)).json()


async def test_the_configuration_is_shown_without_its_secrets(admin: Administration) -> None:
    page = await admin.get("/console/admin/configuration")
    file = await admin.get("/console/admin/configuration.json")
    assert file.json() == (await admin.door.get("/v1/admin/config", admin.token)).json()
    assert "own-secret" not in page.text + file.text
    for shown in ("requests_per_minute", "providers: work", "models: org/million", "headers.x-team-token", "*****"):
        assert shown in page.text, shown


async def test_keys_of_administrators_are_listed_and_revoked_and_made_elsewhere(admin: Administration) -> None:
    store = store_of(admin.door.gateway)
    key, raw = await AdminKeys(store, new_id=new_id, now_ms=now_ms).create(HOSTILE)
    page = (await admin.get(KEYS)).text
    assert (HOSTILE in page, raw in page, key.prefix in page, "admins create" in page) == (False, False, True, True)
    revoked = await admin.send(f"{KEYS}/{key.id}/revoke")
    assert (revoked.status_code, revoked.headers["location"]) == (303, f"{KEYS}?revoked=1")
    page = (await admin.get(revoked.headers["location"])).text
    assert (f"revoke-{key.id}" in page, "it is refused" in page) == (False, True)
    assert (await admin.door.get("/v1/admin/config", raw)).status_code == 401
    assert (await admin.send(f"{KEYS}/adk_nobody/revoke")).status_code == 404
    assert await noted(admin, key.id) == ["admin_key.revoke"]


async def test_it_ends_once_that_was_asked_and_answered(admin: Administration) -> None:
    asked = (await admin.get(f"{OVERVIEW}/drain")).text
    assert ("End this gateway?" in asked, admin.door.gateway.lifecycle.is_asked_to_end) == (True, False)
    for _ in range(2):
        told = await admin.send(f"{OVERVIEW}/drain")
        assert (told.status_code, "is ending" in told.text, '<button class="bad"' in told.text) == (200, True, False)
    assert admin.door.gateway.lifecycle.is_asked_to_end
    assert (await noted(admin, "gateway")) == ["service.drain"]
