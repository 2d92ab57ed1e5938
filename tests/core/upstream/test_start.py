"""The first look at the backends: the start waits for none that is silent, and hears of each once it answers."""

import asyncio
from random import Random
from typing import Any

import pytest

from mcp_gateway.core.catalog import Listings
from mcp_gateway.core.surfaces.surface import Headers
from mcp_gateway.core.upstream.backend import Backend, BackendResponse
from mcp_gateway.core.upstream.budget import RetryBudget
from mcp_gateway.core.upstream.pool import Pool
from tests.cases import each
from tests.loop_clock import pass_time
from tests.origins import Whole
from tests.patience import eventually

NEVER_S = 3600.0
MODELS = b'{"object": "list", "data": [{"id": "%b"}]}'


class Origin:
    """Lists one model; `asked` is set when it was asked for `silent_at`, which it answers once `is_open` is."""

    def __init__(self, model: str, silent_at: str = "") -> None:
        self.model = model
        self.silent_at = silent_at
        self.asked = asyncio.Event()
        self.is_open = asyncio.Event()

    async def request(
        self, method: str, path: str, headers: Headers, body: bytes = b"", **more: Any
    ) -> BackendResponse:
        if path == self.silent_at:
            self.asked.set()
            await self.is_open.wait()
        return Whole(MODELS % self.model.encode() if path == "/v1/models" else b"")

    async def aclose(self) -> None: ...


class Trickling(Whole):
    """A body of which a byte comes now and then, and never the last."""

    async def next_chunk(self) -> bytes:
        await asyncio.sleep(0)
        return b" "


class TricklingOrigin(Origin):
    async def request(
        self, method: str, path: str, headers: Headers, body: bytes = b"", **more: Any
    ) -> BackendResponse:
        self.asked.set()
        return Trickling(b"")


class Passed:
    """A pool of these backends, and each set of models that it passed on."""

    def __init__(self, *origins: Origin) -> None:
        self.models: list[list[str]] = []
        self.is_passed = asyncio.Event()
        self.pool = Pool(
            [Backend(f"vllm-{number}", origin) for number, origin in enumerate(origins, 1)],
            Backend("demo", Origin("demo")),
            interval_s=NEVER_S,
            timeout_s=NEVER_S,
            on_metrics=lambda backend, took_s: None,
            on_change=self._note,
            retries=RetryBudget(0.1),
            random=Random(1),
        )

    def _note(self, listings: Listings) -> None:
        self.models.append(sorted(listings))
        self.is_passed.set()


async def begun(passed: Passed, *silent: Origin) -> None:
    """Begin, and let the time to wait run out once these are asked and all others have told."""
    beginning = asyncio.create_task(passed.pool.begin(NEVER_S / 2))
    for origin in silent:
        await origin.asked.wait()
    others = len(passed.pool.backends) - len(silent)
    await eventually(lambda: sum(backend.is_up for backend in passed.pool.backends) == others)
    assert not beginning.done()
    pass_time(NEVER_S / 2)
    await beginning


@each("path", ["/health", "/v1/models"])
async def test_a_silent_backend_does_not_hold_up_the_start(path: str) -> None:
    silent = Origin("b", silent_at=path)
    passed = Passed(Origin("a"), silent)
    await begun(passed, silent)
    assert passed.models == [["a"]]
    good, bad = passed.pool.backends
    assert (good.status, bad.status, bad.reason, bad.is_probed) == ("up", "down", "it has not answered yet", False)


async def test_a_backend_that_trickles_does_not_hold_up_the_start() -> None:
    slow = TricklingOrigin("b")
    passed = Passed(Origin("a"), slow)
    await begun(passed, slow)
    assert passed.models == [["a"]]


async def test_where_all_backends_answer_nothing_is_waited_for() -> None:
    passed = Passed(Origin("a"), Origin("b"))
    await passed.pool.begin(NEVER_S)
    assert passed.models == [["a", "b"]]


@each("path", ["/metrics", "/tokenize"])
async def test_what_a_backend_lists_is_known_though_it_is_silent_on_the_rest(path: str) -> None:
    silent = Origin("b", silent_at=path)
    passed = Passed(Origin("a"), silent)
    passed.pool.backends[1].models.measured = frozenset({"b"})
    beginning = asyncio.create_task(passed.pool.begin(NEVER_S / 2))
    await silent.asked.wait()
    pass_time(NEVER_S / 2)
    await beginning
    assert passed.models == [["a", "b"]]


async def test_the_start_goes_on_where_none_is_waited_for_at_all(caplog: pytest.LogCaptureFixture) -> None:
    passed = Passed(Origin("a"))
    await passed.pool.begin(0)
    assert passed.pool.demo.is_up
    await passed.pool.discover()
    assert passed.models[-1] == ["a"]


async def test_a_backend_that_answers_later_is_known_at_once_though_others_are_silent() -> None:
    silent, late = Origin("b", silent_at="/health"), Origin("c", silent_at="/health")
    passed = Passed(silent, late)
    await begun(passed, silent, late)
    passed.is_passed.clear()
    looking = asyncio.create_task(passed.pool.discover())
    late.is_open.set()
    await passed.is_passed.wait()
    assert passed.models == [[], ["c"]]
    assert not looking.done()
    silent.is_open.set()
    await looking
    assert passed.models == [[], ["c"], ["b", "c"]]
