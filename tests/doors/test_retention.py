"""Old requests go beside traffic: who asks meanwhile is answered, and what is gone is unknown by every door."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.observe.retention import Retention
from tests.databases import store_of
from tests.recorded import recorded, write_records
from tests.replaying import ReplayingBackend
from tests.serving import PRICED, UNLIMITED, error_of, open_door

OLD = 300


async def test_old_requests_go_beside_traffic_and_are_unknown_from_then_on(
    tmp_path: Path, backend: ReplayingBackend
) -> None:
    async with open_door(tmp_path, vllm_urls=[backend.url], models=[PRICED], requests_keep_days=400) as door:
        account = await door.account("1")
        key = await door.key(account, limits=UNLIMITED)
        store, before_ms = store_of(door.gateway), now_ms() - 401 * DAY_MS
        old = [recorded(before_ms + n, account_id=account) for n in range(OLD)]
        await write_records(store, *old)
        paths = f"/v1/requests/{old[0].id}", f"/v1/generation?id={old[0].id}"
        assert [(await door.get(path, key)).status_code for path in paths] == [200, 200]
        first, last = (datetime.fromtimestamp(at_ms / 1000, UTC) for at_ms in (before_ms, before_ms + DAY_MS))
        window = f"/v1/usage?since={first:%Y-%m-%d}&until={last:%Y-%m-%d}"
        used = (await door.get(window, key)).json()
        assert used["totals"]["requests"] == OLD
        tidying = asyncio.create_task(
            Retention(store, store.now_ms, requests_keep_days=door.gateway.settings.requests_keep_days).tidy()
        )
        asked = 0
        while not tidying.done():
            assert (await door.chat(key, model=PRICED["id"])).status_code == 200
            asked += 1
        assert await tidying == OLD
        assert asked > 1
        for path in paths:
            gone = await door.get(path, key)
            assert (gone.status_code, error_of(gone)["code"]) == (404, "not_found")
        listed = (await door.get("/v1/requests?limit=100", key)).json()["data"]
        assert len(listed) == min(asked, 100)
        assert (await door.get(window, key)).json() == used
        assert await door.gateway.ledger.check() == []
