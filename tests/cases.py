"""Many small cases of one test: pytest makes a test of each parameter, which takes longer than a small case does."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import iscoroutinefunction, signature
from typing import Any

Test = Callable[..., Awaitable[None] | None]


def each(names: str | Sequence[str], cases: Iterable[Any]) -> Callable[[Test], Test]:
    """Run the test once for each case, as `pytest.mark.parametrize` would, but as one test with one set of fixtures.

    The first case that fails is named.
    """
    is_single = isinstance(names, str)
    rows = [{names: case} if is_single else dict(zip(names, case, strict=True)) for case in cases]
    assert rows

    def decorate(test: Test) -> Test:
        if iscoroutinefunction(test):

            @wraps(test)
            async def run(*args: Any, **fixtures: Any) -> None:
                for row in rows:
                    with _named(row):
                        await test(*args, **fixtures, **row)
        else:

            @wraps(test)
            def run(*args: Any, **fixtures: Any) -> None:
                for row in rows:
                    with _named(row):
                        test(*args, **fixtures, **row)

        whole = signature(test)
        left = [parameter for name, parameter in whole.parameters.items() if name not in rows[0]]
        run.__signature__ = whole.replace(parameters=left)  # what is left are fixtures
        return run

    return decorate


@contextmanager
def _named(row: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"in the case of {row!r:.1000}")
        raise
