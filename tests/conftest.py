"""How all tests run, and what many of them stand on: the fixtures that are here are nowhere else.

They run in an order that can be shuffled, and on the same examples each time, which have no deadline.
"""

import asyncio
import gc
import importlib.util
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from itertools import count, groupby
from pathlib import Path
from random import Random

import pytest
import pytest_asyncio
import uvloop
from hypothesis import HealthCheck, settings

from mcp_gateway.core.config import Settings
from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.identity.keys import KeysPerAccount
from mcp_gateway.core.identity.known_keys import KnownKeys
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.store.sqlite.store import Store
from tests import databases, serving
from tests.authorities import hide_authorities
from tests.bridge.process import McpTestServer, server_template
from tests.clients.installed import Gateway, Pages, served_gateway, served_pages
from tests.clocks import MsClock
from tests.core.store.contract.places import PLACES, OpenEngine, Place
from tests.databases import migrated, open_store
from tests.disk import Disk
from tests.fake_stripe import FakeStripe, fake_stripe, settings_of
from tests.replaying import ReplayingBackend
from tests.serving import Door, open_door, servers_at
from tests.valkey_server import ValkeyServer

settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("few", settings.get_profile("same"), max_examples=20)  # of the hundred that CI tries
settings.load_profile("same")
hide_authorities()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it for what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else programs that tests interrupt would ignore it, too

_IN_A_BROWSER = Path(__file__).parent / "console"
_DOORS = Path(__file__).parent / "doors"
_TARGETS = {"slow", "program", "surfaces", "providers", "gateways", "engines"}
"""Marks by which tests have a make target of their own."""
_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
_may_start = True
"""Whether what runs now is marked as a test that starts a program."""
_MARKS_OF_FILE = re.compile(r"^pytestmark = (\[[^\]]*\]|.*)", re.MULTILINE)
_left_out: frozenset[str] = frozenset()
"""The marks of tests that are not to run, where nothing else is said of those that are."""


def _watch_starts(event: str, arguments: object) -> None:
    if event in _STARTS and not _may_start:
        raise AssertionError("a test that starts a program is marked: @pytest.mark.program")


if sys.gettrace() is None:  # with a hook, CPython 3.11 may fail to begin a second thread's trace, and so the thread
    sys.addaudithook(_watch_starts)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    global _may_start
    _may_start = databases.is_on_postgres or any(map(item.get_closest_marker, ("program", "slow", "engines")))
    try:
        return (yield)
    finally:
        _may_start = True
        if (stores := sys.modules.get("tests.postgres_stores")) is not None:
            stores.forget_left()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engine", choices=PLACES, default="sqlite", help="where stores and gateways keep what they do")
    parser.addoption("--order", type=int, help="run the files, and the tests in each, in the random order of this seed")
    parser.addoption("--valkey", action="store_true", help="have served gateways count their limits in a Valkey")


def pytest_configure(config: pytest.Config) -> None:
    global _left_out
    databases.is_on_postgres = config.getoption("engine") == "postgres"
    if config.getoption("valkey"):
        folder = tempfile.TemporaryDirectory()
        server = ValkeyServer(Path(folder.name))
        serving.valkey_urls = map(server.url, count(1))
        config.add_cleanup(folder.cleanup)
        config.add_cleanup(server.end)
    if any(Path(named.partition("::")[0]).resolve().is_relative_to(_DOORS) for named in config.args):
        config.option.markexpr = config.option.markexpr.replace(" and not doors", "")  # who names them means them
    expression, names_tests = config.option.markexpr, any("::" in named for named in config.args)
    if re.fullmatch(r"not \w+( and not \w+)*", expression) and not names_tests:
        _left_out = frozenset(re.findall(r"not (\w+)", expression))


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Files of which all is left out are not even imported: what they need may not be installed, or takes long.

    Nor are those that need a browser's program, where that is not installed: `make test-console` installs it.
    """
    if collection_path.is_relative_to(_IN_A_BROWSER) and importlib.util.find_spec("playwright") is None:
        return True
    if not _left_out or collection_path.suffix != ".py":
        return None
    if "doors" in _left_out and collection_path.is_relative_to(_DOORS):
        return True
    said = _MARKS_OF_FILE.search(collection_path.read_text())
    return True if said and not _left_out.isdisjoint(re.findall(r"pytest\.mark\.(\w+)", said[1])) else None


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, obj: object) -> list[pytest.Item] | None:
    """Tests that are left out by their mark are not even made: with all their cases they are most of what there is."""
    marks = {mark.name for mark in (*collector.iter_markers(), *getattr(obj, "pytestmark", ()))}
    return [] if marks & _left_out else None


def pytest_itemcollected(item: pytest.Item) -> None:
    """What asks a gateway that is served has a make target of its own, unless another mark gave it one."""
    if item.path.is_relative_to(_DOORS) and not _TARGETS & {mark.name for mark in item.iter_markers()}:
        item.add_marker(pytest.mark.doors)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A file's tests stay together, since they may share what it serves."""
    if (seed := config.getoption("order")) is not None:
        random = Random(seed)
        files = [list(tests) for _, tests in groupby(items, key=lambda item: item.path)]
        random.shuffle(files)
        for tests in files:
            random.shuffle(tests)
        items[:] = [test for tests in files for test in tests]


def pytest_collection_finish() -> None:
    """What is loaded now stays: tests that look for what is kept need not look through it, nor does the collector."""
    gc.freeze()
    gc.set_threshold(20_000)  # or each test would have it look ten times for circles that few of them make
    gc.enable()


_ON_BOTH_LOOPS = {"test_acceptor.py", "test_transport.py"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Sockets are looked at on both event loops: asyncio's own and the one that the gateway is served on."""
    own = {"asyncio": asyncio.new_event_loop}
    return own | {"uvloop": uvloop.new_event_loop} if item.path.name in _ON_BOTH_LOOPS else own


@pytest.fixture(scope="module", autouse=True)
def own_objects() -> None:
    """The collector, and who looks for what is kept, goes through what this file makes and not all that others left."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    """What was left in cycles, and not closed, is found in the end; pytest looks twice more, through little."""
    if (server := sys.modules.get("tests.postgres_server")) is not None:
        server.end_server()
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Without the collector of cycles, which may come late."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# Other engines


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """One for all, which have a database each."""
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    yield server
    server.end()


@pytest.fixture
def lent_url() -> Iterator[str]:
    """Of a database of PostgreSQL's that is as new."""
    from tests.postgres_stores import lent_database  # noqa: PLC0415 - its server takes long to begin

    with lent_database() as url:
        yield url


@pytest.fixture
def answers_in_time() -> Iterator[None]:
    """For tests that stop a server of PostgreSQL's."""
    from tests.postgres_server import answers_in_time  # noqa: PLC0415 - its driver takes long to import

    with answers_in_time():
        yield


@pytest.fixture
def valkey_url(valkey_server: ValkeyServer) -> str:
    """An empty database."""
    return valkey_server.url(valkey_server.next_database())


@pytest.fixture
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """One that a test may end."""
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    yield server
    server.end()


# A database, and the rooms above it


@pytest.fixture
def clock() -> MsClock:
    return MsClock()


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """With the schema of today, and a table of the tests' own."""
    return migrated(tmp_path / "gateway.sqlite3")


@pytest.fixture
def of_sqlite() -> None:
    """For what is about SQLite alone: its file, its plans."""
    if databases.is_on_postgres:
        pytest.skip("it is about SQLite alone")


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """Where no database is yet."""
    return tmp_path / "gateway.sqlite3"


@pytest.fixture
async def store(database: Path, clock: MsClock, disk: Disk) -> AsyncIterator[Store]:
    store = await open_store(database, now_ms=clock, busy_timeout_s=0.05, sync=disk)
    yield store
    disk.release()
    await store.close()


@pytest.fixture(params=[pytest.param(name, marks=[] if name == "sqlite" else [pytest.mark.engines]) for name in PLACES])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Of each engine that there is, for tests of what all of them do."""
    place = PLACES[request.param](tmp_path)
    yield place
    place.end()


@pytest.fixture
async def engine(place: Place) -> AsyncIterator[OpenEngine]:
    async with place.opened() as engine:
        yield engine


@pytest.fixture
def served_at(tmp_path: Path) -> Iterator[Settings]:
    """Those of a gateway that a test starts as a program: its folder, and the servers that were chosen."""
    with servers_at(Settings(data_dir=tmp_path)) as tree:
        yield tree


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger(store)


@pytest.fixture
def accounts(store: Store, clock: MsClock) -> Accounts:
    return Accounts(store, new_id=new_id, now_ms=clock)


@pytest.fixture
async def account(accounts: Accounts) -> str:
    """The id of an account without money."""
    return (await accounts.create("Ann")).id


@pytest.fixture
def keys(store: Store, clock: MsClock) -> KeyRing:
    return KeyRing(
        store, new_id=new_id, now_ms=clock, most=KeysPerAccount(live=3, a_day=20, minted_live=5, minted_a_minute=8)
    )


@pytest.fixture
async def known(keys: KeyRing, clock: MsClock) -> KnownKeys:
    """What a server has in memory that has just started."""
    known = KnownKeys(keys, now_ms=clock)
    await known.begin()
    return known


# Who the gateway asks


@pytest.fixture
async def backend() -> AsyncIterator[ReplayingBackend]:
    async with ReplayingBackend() as backend:
        yield backend


@pytest.fixture(scope="module")
def shared_stripe() -> Iterator[FakeStripe]:
    with fake_stripe() as stripe:
        yield stripe


@pytest.fixture
def stripe(shared_stripe: FakeStripe) -> FakeStripe:
    """As it was at first, but for the customers that it knows."""
    shared_stripe.forget()
    return shared_stripe


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def paying_door(tmp_path_factory: pytest.TempPathFactory, shared_stripe: FakeStripe) -> AsyncIterator[Door]:
    """A door that takes payments by it."""
    async with open_door(tmp_path_factory.mktemp("door"), stripe=settings_of(shared_stripe)) as door:
        yield door


# What the bridge talks to


@pytest.fixture(scope="session")
def template() -> Iterator[subprocess.Popen[bytes]]:
    with server_template() as process:
        yield process


@pytest.fixture(scope="session")
def shared_server(template: subprocess.Popen[bytes], tmp_path_factory: pytest.TempPathFactory) -> McpTestServer:
    server = McpTestServer(template, tmp_path_factory.mktemp("shared") / "diary.jsonl")
    server.start()
    return server


@pytest.fixture
def server(shared_server: McpTestServer) -> McpTestServer:
    """A server that no test ends, without memories."""
    shared_server.forget()
    return shared_server


@pytest.fixture
def own_server(template: subprocess.Popen[bytes], tmp_path: Path) -> Iterator[McpTestServer]:
    """A server that the test may kill and start again."""
    server = McpTestServer(template, tmp_path / "diary.jsonl")
    server.start()
    yield server
    server.kill()


# What the programs of others talk to


@pytest.fixture(scope="session")
def pages() -> Iterator[Pages]:
    with served_pages() as pages:
        yield pages


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, pages: Pages) -> Iterator[Gateway]:
    with served_gateway(tmp_path_factory.mktemp("gateway"), pages) as gateway:
        yield gateway
