"""An account's webhook over HTTP: its secret is shown once, and another account sees nothing of it."""

from pathlib import Path

from tests.serving import bearer, error_of, open_door

URL = "https://hooks.example.com/in"


async def test_a_secret_is_shown_once_and_another_by_a_rotation(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        key, other = await door.key(credit="10"), await door.key()
        made = (
            await door.http.put("/v1/webhook", json={"url": URL, "low_balance_usd": "5"}, headers=bearer(key))
        ).json()
        again = (await door.http.put("/v1/webhook", json={"url": URL + "/2"}, headers=bearer(key))).json()
        assert made["secret"].startswith("whsec_")
        assert (made["low_balance_usd"], again["low_balance_usd"]) == ("5.00", "5.00")
        assert "secret" not in again
        rotated = (await door.http.post("/v1/webhook/rotate", headers=bearer(key))).json()
        assert rotated["secret"] not in ("", made["secret"])
        assert rotated["former_secret_until"] is not None
        told = (await door.get("/v1/webhook", key)).json()
        assert (told["url"], "secret" in told) == (URL + "/2", False)
        assert (await door.get("/v1/webhook", other)).json()["url"] is None
        missing = await door.http.post("/v1/webhook/rotate", headers=bearer(other))
        assert error_of(missing)["code"] == "not_found"
        assert (await door.http.delete("/v1/webhook", headers=bearer(key))).json()["deleted"] is True
        assert (await door.http.delete("/v1/webhook", headers=bearer(key))).status_code == 404


async def test_what_is_no_address_or_mark_changes_nothing(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        key = await door.key()
        for body in (
            {"url": "http://hooks.example.com/"},
            {"url": "https://10.1.2.3/"},
            {"url": "https://[fd00::1]/hook"},
            {"url": URL, "low_balance_usd": "-1"},
            {"url": URL, "low_balance_usd": "x"},
        ):
            refused = await door.http.put("/v1/webhook", json=body, headers=bearer(key))
            assert (refused.status_code, error_of(refused)["code"]) == (400, "invalid_value")
        assert (await door.get("/v1/webhook", key)).json()["url"] is None
