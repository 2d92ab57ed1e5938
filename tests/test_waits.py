"""No test rests on a clock: what is waited for is an event or a clock in the test's hands, and patience is long."""

from pathlib import Path

from tests.cases import each
from tests.waits import on_a_clock

TESTS = Path(__file__).parent
APART = {"attack", "clients", "conformance", "crash", "outages", "soak"}
"""Suites that run for a time which is told them, beside programs of others."""
PLACES = [path for path in sorted(TESTS.rglob("*.py")) if path.relative_to(TESTS).parts[0] not in APART]


@each("path", [path for path in PLACES if path.name != "patience.py"])
def test_no_test_rests_on_a_clock(path: Path) -> None:
    assert on_a_clock(path) == []


@each(
    ("source", "why"),
    [
        ("await asyncio.sleep(0.05)", "waits for time to pass"),
        ("await asyncio.sleep(SHORT_S / 10)", "waits for time to pass"),
        ("time.sleep(1)", "waits for time to pass"),
        ("async with asyncio.timeout(0.2):\n    pass", "ends a wait soon"),
        ("await asyncio.wait_for(it(), 5)", "ends a wait soon"),
        ("await asyncio.wait(them, timeout=2 * SHORT_S)", "ends a wait soon"),
        ("assert process.wait(timeout=20) == 0", "ends a wait soon"),
        ("assert time.monotonic() - began_s < 1", "compares times"),
    ],
)
def test_what_rests_on_a_clock_is_found(tmp_path: Path, source: str, why: str) -> None:
    (tmp_path / "planted.py").write_text(f"SHORT_S = 0.05\n{source}\n")
    [found] = on_a_clock(tmp_path / "planted.py")
    assert found == f"planted.py:2: {why}"


@each(
    "source",
    [
        "await asyncio.sleep(0)",
        "await gate.sleep(5)",
        "async with asyncio.timeout(PATIENCE_S):\n    pass",
        "async with asyncio.timeout(60):\n    pass",
        "await asyncio.wait_for(it(), None)",
        "request(timeout=3 * PATIENCE_S)",
        "signed(at_s=int(time.time()))",
        "await asyncio.sleep(0.05)  # time has to pass: a limit on both loops runs out",
    ],
)
def test_what_does_not_is_not(tmp_path: Path, source: str) -> None:
    (tmp_path / "planted.py").write_text(f"{source}\n")
    assert on_a_clock(tmp_path / "planted.py") == []
