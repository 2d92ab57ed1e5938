"""Maintenance, the incident and the end of the gateway, as an administrator switches them while it runs."""

from pathlib import Path
from typing import Any

from mcp_gateway.core.service_notice import SwitchMaintenance, TellIncident
from tests.databases import locked_out
from tests.serving import Door, bearer, error_of, open_door

NOTHING = {"maintenance": False, "incident": None}


async def asked(door: Door, method: str, path: str, admin: str, body: Any = None) -> Any:
    answer = await door.http.request(method, f"/v1/admin/{path}", headers=bearer(admin), json=body)
    assert answer.status_code in (200, 202), answer.text
    return answer.json()


async def test_maintenance_refuses_what_is_new_until_it_is_switched_back(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        admin, key = await door.admin_key(), await door.key()
        told = await asked(door, "PUT", "maintenance", admin, {"enabled": True})
        assert (told["maintenance"], told["switched"]["maintenance"], told["configured"]) == (True, True, NOTHING)
        assert error_of(await door.chat(key, model="demo/echo"))["code"] == "maintenance"
        assert (await door.http.get("/health")).status_code == 503
        assert (await asked(door, "GET", "service", admin)) == told
        assert (await asked(door, "PUT", "maintenance", admin, {"enabled": False}))["maintenance"] is False
        assert (await door.chat(key, model="demo/echo")).status_code == 200


async def test_what_was_switched_holds_over_a_restart(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        admin = await door.admin_key()
        await asked(door, "PUT", "maintenance", admin, {"enabled": True})
        await asked(door, "PUT", "incident", admin, {"text": "A disk is full."})
    async with open_door(tmp_path) as door:
        told = await asked(door, "GET", "service", admin)
        assert told["switched"] == {"maintenance": True, "incident": "A disk is full."}
        assert (told["maintenance"], told["in_flight"], told["draining"]) == (True, 0, False)


async def test_it_holds_beside_the_configuration(tmp_path: Path) -> None:
    async with open_door(tmp_path, maintenance=True, incident="Planned work.") as door:
        admin = await door.admin_key()
        assert (await asked(door, "PUT", "maintenance", admin, {"enabled": False}))["maintenance"] is True
        assert (await asked(door, "GET", "service", admin))["incident"] == "Planned work."
        told = await asked(door, "PUT", "incident", admin, {"text": "It takes longer."})
        assert (told["incident"], told["configured"]["incident"]) == ("It takes longer.", "Planned work.")
        assert (await door.http.get("/stats")).json()["incident"] == "It takes longer."
        assert (await asked(door, "DELETE", "incident", admin))["incident"] == "Planned work."


async def test_who_switched_what_is_noted_once_for_each_change(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        admin = await door.admin_key()
        for _ in range(2):
            await asked(door, "PUT", "maintenance", admin, {"enabled": True})
        await asked(door, "PUT", "incident", admin, {"text": "x"})
        entries = (await door.get("/v1/admin/audit?subject=gateway", admin)).json()["data"]
        told = [(one["action"], one["before"], one["after"], one["by"]["kind"]) for one in entries]
        assert told == [
            ("service.incident", {"incident": None}, {"incident": "x"}, "admin_key"),
            ("service.maintenance", {"maintenance": False}, {"maintenance": True}, "admin_key"),
        ]


async def test_a_command_switches_the_same_of_a_running_server(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        admin, desk = await door.admin_key(), await door.desk()
        await desk.server.decide(SwitchMaintenance(True))
        await desk.server.decide(TellIncident("y"))
        told = await asked(door, "GET", "service", admin)
        assert told["switched"] == {"maintenance": True, "incident": "y"}


async def test_what_is_no_incident_is_refused(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        headers = bearer(await door.admin_key())
        for text in ("", "a\nb", "x" * 501, 1, None):
            answer = await door.http.put("/v1/admin/incident", headers=headers, json={"text": text})
            assert (answer.status_code, error_of(answer)["param"]) == (400, "text")
        assert (await door.http.put("/v1/admin/incident", headers=headers, json={})).status_code == 400


async def test_a_gateway_that_is_asked_to_end_says_so_also_in_an_outage_of_the_database(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        admin = await door.admin_key()
        assert (await asked(door, "GET", "service", admin))["draining"] is False
        async with locked_out(door.gateway, wait_s=0.05):
            answer = await door.http.post("/v1/admin/drain", headers=bearer(admin))
            assert (answer.status_code, answer.json()["draining"]) == (202, True)
            refused = await door.http.put("/v1/admin/maintenance", headers=bearer(admin), json={"enabled": True})
            assert error_of(refused)["code"] == "ledger_unavailable"
        assert door.gateway.lifecycle.is_asked_to_end
        door.errors.clear()
