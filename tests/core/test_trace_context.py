"""Which trace headers pass to a backend: those of W3C Trace Context, and nothing that only looks like them."""

from mcp_gateway.core.trace_context import trace_of
from tests.cases import each

TRACE, PARENT = b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331"
GOOD = b"00-" + TRACE + b"-" + PARENT + b"-01"


def passed(parent: bytes | None, *states: bytes) -> dict[bytes, bytes]:
    lines = [(b"host", b"x"), *((b"tracestate", state) for state in states), (b"cookie", b"c")]
    return dict(trace_of(lines if parent is None else [*lines, (b"traceparent", parent)]))


def test_a_trace_passes_as_it_came() -> None:
    assert passed(GOOD) == {b"traceparent": GOOD}
    assert passed(GOOD, b"a=b") == {b"traceparent": GOOD, b"tracestate": b"a=b"}


@each(
    "parent",
    [
        b"", b"x", b"x" * 30_000, GOOD[:-1], GOOD + b"0", GOOD + b"-", GOOD + b"-more", GOOD.upper(), b" " + GOOD,
        GOOD.replace(b"00-", b"ff-"), GOOD.replace(b"00-", b"0-"), GOOD.replace(b"00-", b"0g-"),
        GOOD.replace(b"-01", b"-g1"), GOOD.replace(TRACE, b"0" * 32), GOOD.replace(PARENT, b"0" * 16),
        GOOD.replace(b"-", b"_"), GOOD + b"\n",
        GOOD.replace(PARENT, PARENT[:-1] + b"\xe9"), GOOD.replace(TRACE, TRACE[:-1]), GOOD + b"," + GOOD,
        b"cc" + GOOD[2:] + b".", b"cc" + GOOD[2:-1],
    ],
)  # fmt: skip
def test_a_parent_of_another_form_is_dropped_and_its_state_with_it(parent: bytes) -> None:
    assert passed(parent, b"a=b") == {}


@each(
    ("later", "told"),
    [
        (b"cc" + GOOD[2:], GOOD),
        (b"01" + GOOD[2:], GOOD),
        (b"fe" + GOOD[2:] + b"-what-the-future-will-be-like", GOOD),
        (b"01" + GOOD[2:] + b"-", GOOD),
        (b"01" + GOOD[2:] + b"-" + b"x" * 30_000, GOOD),
        (b"01" + GOOD[2:-2] + b"fd", GOOD),
        (b"01" + GOOD[2:-2] + b"fe", GOOD[:-2] + b"02"),
    ],
)
def test_a_later_version_passes_as_the_one_that_is_known(later: bytes, told: bytes) -> None:
    assert passed(later) == {b"traceparent": told}


def test_a_parent_that_stands_twice_is_none() -> None:
    assert trace_of([(b"traceparent", GOOD), (b"traceparent", GOOD)]) == ()


@each(
    "state",
    [
        b"a=1", b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", b"a=1 , b=2\t,c=3", b"a=1,,b=2",
        b"fw529a3039@dt=FfAAA,a=x y", b"a/b-c*d_e=!~", b"0@a=1",
        b"a=" + b"x" * 256, b"a" * 256 + b"=x", b",".join(b"k%d=v" % n for n in range(32)),
    ],
)  # fmt: skip
def test_a_state_passes(state: bytes) -> None:
    assert passed(GOOD, state) == {b"traceparent": GOOD, b"tracestate": state}


@each(
    "state",
    [
        b"", b",", b" , ", b"a", b"=1", b"a=", b"A=1", b"a=1;b=2 c,d", b"a=\xe9", b"a=1\x00", b"a b=1", b"a=b=c",
        b"1a=x", b"a@=1", b"@a=1", b"a@1=1", b"a@" + b"b" * 15 + b"=1", b"a=" + b"x" * 257, b"a" * 257 + b"=x",
        b"a" * 242 + b"@a=1", b",".join(b"k%d=v" % n for n in range(33)), b"a=1," * 129, b"a\xe9" * 100,
        b"a=1,b", b"a=\t",
    ],
)  # fmt: skip
def test_a_state_of_another_form_is_dropped_alone(state: bytes) -> None:
    assert passed(GOOD, state) == {b"traceparent": GOOD}


def test_several_lines_of_state_are_one_list() -> None:
    assert passed(GOOD, b"a=1", b"b=2")[b"tracestate"] == b"a=1,b=2"
    assert b"tracestate" not in passed(GOOD, b"a=1", b"B=2")
    assert b"tracestate" not in passed(GOOD, *[b"a=" + b"x" * 200] * 3)


def test_a_state_without_its_parent_is_dropped() -> None:
    assert passed(None, b"a=1") == {}
