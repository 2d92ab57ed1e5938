"""Many small cases of one test: pytest makes a test of each parameter, which takes longer than a small case does."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import iscoroutinefunction, signature
from typing import Any, TypeVar, cast

Told = TypeVar("Told")
Waiting = Callable[..., Awaitable[None]]
Row = dict[str, Any]


def each(names: str | Sequence[str], cases: Iterable[Any]) -> Callable[[Callable[..., Told]], Callable[..., Told]]:
    """Run the test once for each case, as `pytest.mark.parametrize` would, but as one test with one set of fixtures.

    The first case that fails is named.
    """
    rows = [_row(names, case) for case in cases]
    assert rows

    def decorate(test: Callable[..., Told]) -> Callable[..., Told]:
        in_turn: Callable[..., Any] = _waiting if iscoroutinefunction(test) else _plain
        run = in_turn(test, rows)
        whole = signature(test)
        left = [parameter for name, parameter in whole.parameters.items() if name not in rows[0]]
        run.__signature__ = whole.replace(parameters=left)  # what is left are fixtures
        return cast("Callable[..., Told]", run)

    return decorate


def _waiting(test: Waiting, rows: list[Row]) -> Waiting:
    @wraps(test)
    async def run(*args: Any, **fixtures: Any) -> None:
        for row in rows:
            with _named(row):
                await test(*args, **fixtures, **row)

    return run


def _plain(test: Callable[..., None], rows: list[Row]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        for row in rows:
            with _named(row):
                test(*args, **fixtures, **row)

    return run


def _row(names: str | Sequence[str], case: Any) -> Row:
    return {names: case} if isinstance(names, str) else dict(zip(names, case, strict=True))


@contextmanager
def _named(row: Row) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"in the case of {row!r:.1000}")
        raise
