"""Versions that replace each other as programs, one replica after the other, while clients ask."""

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import mcp_gateway
from mcp_gateway.core.ledger.entries import Balance
from mcp_gateway.core.store.postgres.migrations import _steps
from tests.crash.test_kill import Tokens
from tests.engines.gateways import Site, site_at
from tests.engines.test_processes import CREDIT_NANO, FREELY, Load, charged_nano

pytestmark = pytest.mark.engines

PACKAGES = Path(mcp_gateway.__file__).parents[1]
ADDS = "-- Only adds: what the next version keeps.\nALTER TABLE request_rows ADD COLUMN of_next bigint;"
CHANGES = "ALTER TABLE request_rows DROP COLUMN of_next;"


@pytest.fixture
async def site(tmp_path: Path, valkey_url: str) -> AsyncIterator[Site]:
    async with site_at(tmp_path, valkey_url) as site:
        yield site


def version_after(before: Path, folder: Path, sql: str) -> Path:
    """The packages of a version whose schema is one step ahead."""
    for name in ("mcp_gateway", "http_api", "bridge"):
        shutil.copytree(before / name, folder / name)
    steps = folder / "mcp_gateway/core/store/postgres/migrations"
    (steps / f"{len([*steps.glob('*.sql')]) + 1:04}_next.sql").write_text(sql)
    return folder


async def test_a_version_that_adds_comes_one_replica_after_the_other_and_one_that_changes_once_all_have_ended(
    site: Site, tmp_path: Path
) -> None:
    site.backend.standing = tokens = Tokens(7)
    adds = version_after(PACKAGES, tmp_path / "adds", ADDS)
    changes = version_after(adds, tmp_path / "changes", CHANGES)
    async with site.desk() as desk, AsyncExitStack() as stack:
        account = (await desk.accounts.create("upgraded")).id
        await desk.ledger.credit(account, CREDIT_NANO, "start")
        _, key = await desk.keys.create(account, limits=FREELY)
        load = Load(key, clients=1)
        ours = [await stack.enter_async_context(site.replica(name)) for name in ("one", "two")]
        for program in ours:
            load.at(program)
        await load.more()
        theirs = []
        for number, old in enumerate(ours):
            theirs.append(await stack.enter_async_context(site.replica(f"next {number}", adds)))
            load.at(theirs[-1])
            await load.more()
            await load.leave(old)
            await load.more()
        with pytest.raises(AssertionError, match="ended before it served"):
            await stack.enter_async_context(site.replica("changes", changes))
        assert "end all of them first" in site.log("changes").read_text()
        await load.more()
        for program in theirs:
            await load.leave(program)
        assert (load.seen.broken, load.seen.refused) == (0, {})
        last = await stack.enter_async_context(site.replica("changes", changes))
        load.at(last)
        await load.more()
        await load.leave(last)
        with pytest.raises(AssertionError, match="ended before it served"):
            await stack.enter_async_context(site.replica("one"))
        assert f"schema {max(_steps()) + 2}" in site.log("one").read_text()
        assert await desk.ledger.check(of_all_entries=True) == []
        assert await desk.ledger.balance(account) == Balance(CREDIT_NANO - charged_nano(site, load.seen, tokens))
