"""Each case is run, and the one that fails is named."""

import asyncio
from inspect import signature

import pytest

from tests.cases import each


def test_each_case_is_run_with_the_same_fixtures() -> None:
    seen = []

    @each("first", "ab")
    @each(("second", "third"), [(1, 2), (3, 4)])
    def test(fixture: str, first: str, second: int, third: int) -> None:
        seen.append((fixture, first, second, third))

    assert list(signature(test).parameters) == ["fixture"]
    test(fixture="x")
    assert seen == [("x", "a", 1, 2), ("x", "a", 3, 4), ("x", "b", 1, 2), ("x", "b", 3, 4)]


def test_a_case_that_fails_is_named() -> None:
    @each("number", [1, 2, 3])
    def test(number: int) -> None:
        assert number < 2

    with pytest.raises(AssertionError) as caught:
        test()
    assert caught.value.__notes__ == ["in the case of {'number': 2}"]


async def test_a_case_that_waits_is_waited_for_and_named() -> None:
    @each("number", [1, 2])
    async def test(number: int) -> None:
        await asyncio.sleep(0)
        assert number < 2

    with pytest.raises(AssertionError) as caught:
        await test()
    assert caught.value.__notes__ == ["in the case of {'number': 2}"]


def test_no_cases_are_a_mistake() -> None:
    with pytest.raises(AssertionError):
        each("number", [])
