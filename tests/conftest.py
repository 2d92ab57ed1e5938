"""How all tests run: in an order that can be shuffled, and on the same examples each time, which have no deadline."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from itertools import groupby
from random import Random

import pytest
from hypothesis import HealthCheck, settings

gc.disable()  # until all is loaded: a fifth of that time would go to looking for garbage where there is none

settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")

AUTHORITIES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Where certificates of authorities are; KEPT before the name is what it was for programs that ask other machines."""
KEPT = "TESTS_KEPT_"
for _name in AUTHORITIES:
    os.environ.setdefault(KEPT + _name, os.environ.pop(_name, ""))  # once, for the processes of pytest-xdist, too
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it for what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else programs that tests interrupt would ignore it, too
os.environ["SSL_CERT_DIR"] = os.path.dirname(__file__)  # no authority: each client would take 20 ms to read them all


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Without the collector of cycles, which may come late."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
_may_start = True
"""Whether what runs now is marked as a test that starts a program."""


def _watch_starts(event: str, arguments: object) -> None:
    if event in _STARTS and not _may_start:
        raise AssertionError("a test that starts a program is marked: @pytest.mark.program")


sys.addaudithook(_watch_starts)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    global _may_start
    _may_start = any(map(item.get_closest_marker, ("program", "slow")))
    try:
        return (yield)
    finally:
        _may_start = True


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--order", type=int, help="run the files, and the tests in each, in the random order of this seed")


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
