"""Failed attempts at backends as the operator sees them: all in a counter, and one line a minute for each kind."""

from collections import Counter
from collections.abc import Callable

import pytest

from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.observe.failures import Failures


class Operator:
    """Who counts, and whose minutes pass when the test says so."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self._due: list[Callable[[], None]] = []
        self.counted: Counter[tuple[str, str]] = Counter()
        self.failures = Failures(lambda *kind: self.counted.update([kind]), self._later)

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        assert delay_s == 60
        self._due.append(call)

    def pass_minute(self) -> None:
        due, self._due = self._due, []
        for call in due:
            call()

    def note(self, backend: str, code: Code, times: int = 1) -> None:
        for _ in range(times):
            self.failures.note(backend, GatewayError(code, "words of a backend"))

    def lines(self) -> list[str]:
        """Those that came since the last call."""
        lines = [record.getMessage() for record in self._caplog.records]
        self._caplog.clear()
        return lines


@pytest.fixture
def operator(caplog: pytest.LogCaptureFixture) -> Operator:
    return Operator(caplog)


def test_the_first_failure_is_told_at_once_and_those_of_a_minute_in_one_line(operator: Operator) -> None:
    operator.note("vllm-1", "backend_error")
    assert operator.lines() == ["backend vllm-1: 1 attempt failed with backend_error"]
    operator.note("vllm-1", "backend_error", 200)
    assert operator.lines() == []
    operator.pass_minute()
    assert operator.lines() == ["backend vllm-1: 200 attempts failed with backend_error in a minute"]
    operator.note("vllm-1", "backend_error", 3)
    assert operator.lines() == []
    operator.pass_minute()
    assert operator.lines() == ["backend vllm-1: 3 attempts failed with backend_error in a minute"]
    assert operator.counted == {("vllm-1", "backend_error"): 204}


def test_after_a_minute_without_one_the_next_is_told_at_once_again(operator: Operator) -> None:
    operator.note("vllm-1", "first_token_timeout")
    operator.pass_minute()
    operator.pass_minute()
    assert len(operator.lines()) == 1
    operator.note("vllm-1", "first_token_timeout")
    assert operator.lines() == ["backend vllm-1: 1 attempt failed with first_token_timeout"]


def test_each_kind_at_each_backend_has_a_line_of_its_own(operator: Operator) -> None:
    codes: tuple[Code, ...] = ("connect_failed", "backend_died")
    kinds = [(f"vllm-{number}", code) for number in (1, 2) for code in codes]
    for _ in range(3):
        for kind in kinds:
            operator.note(*kind)
    assert operator.lines() == [f"backend {backend}: 1 attempt failed with {code}" for backend, code in kinds]
    operator.pass_minute()
    assert operator.lines() == [
        f"backend {backend}: 2 attempts failed with {code} in a minute" for backend, code in kinds
    ]


@pytest.mark.parametrize("code", ["invalid_value", "context_length_exceeded", "backend_busy", "in_flight"])
def test_what_a_request_was_refused_for_is_counted_and_no_line(operator: Operator, code: Code) -> None:
    operator.note("vllm-1", code, 5)
    operator.pass_minute()
    assert (operator.lines(), operator.counted) == ([], {("vllm-1", code): 5})
