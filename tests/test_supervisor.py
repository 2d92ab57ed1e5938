"""What keeps worker processes: each test runs it as a program, with workers that do as its last argument says."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cases import each
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.program
_PROGRAM = """
import logging, os, signal, sys, time
from mcp_gateway.cli import supervisor
supervisor._FIRST_REST_S = supervisor._LONGEST_REST_S = 0.01
logging.basicConfig(format="%(message)s", level="INFO")

def work(number, is_first, serves):
    def told(name):
        os.write(1, f"told {number} {name}\\n".encode())
        if name != "SIGHUP":
            sys.exit(STATUS)
    for name in ("SIGTERM", "SIGHUP", "SIGINT"):
        signal.signal(getattr(signal, name), lambda sent, _: told(signal.Signals(sent).name))
    os.write(1, f"begun {number} {is_first}\\n".encode())  # in one piece
    exec(DO)
    serves()
    exec(THEN)
    while True:
        time.sleep(0.01)  # signal.pause would miss what comes just before it

STATUS, DO, THEN = int(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.exit(supervisor.Supervisor(2, work).run())
"""


class Supervised:
    """One that runs; its words are those of its workers, and its complaints its own."""

    def __init__(self, *, before: str = "pass", then: str = "pass", status: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(status), before, then],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def hear(self, *beginnings: str) -> list[str]:
        """Its next lines, which begin so, in any order."""
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline().rstrip() for _ in beginnings]
        unheard = list(lines)
        for beginning in beginnings:
            unheard.remove(next(line for line in unheard if line.startswith(beginning)))
        return sorted(lines)

    def ended(self) -> tuple[int, str]:
        _, complaints = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, complaints


@pytest.fixture
def begun() -> Iterator[list[Supervised]]:
    supervised: list[Supervised] = []
    yield supervised
    for one in supervised:
        one.process.kill()
        one.process.communicate()


@each(("sent", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGTERM, 3)])
def test_signals_are_passed_on_and_all_end(begun: list[Supervised], sent: signal.Signals, status: int) -> None:
    begun.append(one := Supervised(status=status))
    one.hear("begun 1 True", "begun 2 True")
    one.process.send_signal(signal.SIGUSR1)
    one.process.send_signal(signal.SIGHUP)
    one.hear("told 1 SIGHUP", "told 2 SIGHUP")
    one.process.send_signal(sent)
    one.hear(f"told 1 {sent.name}", f"told 2 {sent.name}")
    ended, complaints = one.ended()
    assert ended == status
    assert complaints == "SIGUSR1 changes nothing\n"


def test_a_worker_that_dies_is_begun_again_and_others_go_on(begun: list[Supervised]) -> None:
    begun.append(one := Supervised(then="number == 1 and is_first and os.kill(os.getpid(), 9)"))
    one.hear("begun 1 True", "begun 2 True", "begun 1 False")
    one.process.send_signal(signal.SIGTERM)
    status, complaints = one.ended()
    assert status == 0
    assert "worker 1 was ended by SIGKILL: begun again" in complaints


def test_where_none_can_begin_all_end_with_its_status(begun: list[Supervised]) -> None:
    begun.append(one := Supervised(before="sys.exit(2)"))
    status, complaints = one.ended()
    assert status == 2
    assert "ended with status 2 before it served: all end" in complaints


def test_what_no_worker_expects_is_told_and_ends_it(begun: list[Supervised]) -> None:
    begun.append(one := Supervised(before="1 / 0"))
    status, complaints = one.ended()
    assert status == 1
    assert "ZeroDivisionError" in complaints


def test_where_all_have_died_and_none_can_begin_again_all_end(begun: list[Supervised]) -> None:
    begun.append(one := Supervised(before="is_first or sys.exit(4)", then="os.kill(os.getpid(), 9)"))
    status, complaints = one.ended()
    assert status == 4
    assert complaints.count("ended with status 4: begun again") >= 5
    assert "before it served: all end" in complaints


def test_a_worker_that_ends_by_itself_ends_all(begun: list[Supervised]) -> None:
    begun.append(one := Supervised(then="number == 2 and sys.exit(0)"))
    status, complaints = one.ended()
    assert (status, "worker 2 has ended by itself: all end" in complaints) == (0, True)


def test_workers_end_with_a_supervisor_that_is_killed(begun: list[Supervised]) -> None:
    begun.append(one := Supervised())
    one.hear("begun 1 True", "begun 2 True")
    one.process.kill()
    assert one.hear("told", "told") == ["told 1 SIGTERM", "told 2 SIGTERM"]
