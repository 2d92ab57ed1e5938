"""A window that is configured below the backend's: what exceeds it is refused, and the operator is told."""

from pathlib import Path
from typing import Any

import pytest

from tests.replaying import ReplayingBackend, unary
from tests.serving import PRICED, error_of, open_door

WINDOW = 400


def narrow() -> dict[str, Any]:
    return PRICED | {"context_window": WINDOW}


@pytest.mark.parametrize(
    ("chars", "counted", "status", "questions"),
    [
        (10, 10_000, 200, 0),
        (1000, WINDOW + 1, 400, 1),
        (1000, 10**14, 400, 1),
        (1000, WINDOW, 200, 1),
        (1000, None, 200, 1),
        (1000, -1, 200, 1),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_prompt_that_may_exceed_the_configured_window_is_counted_and_refused_if_it_does(
    tmp_path: Path, chars: int, counted: int | None, status: int, questions: int, is_stream: bool
) -> None:
    async with (
        ReplayingBackend(max_model_len=4096) as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=[narrow()]) as door,
    ):
        backend.prompt_tokens = counted
        key = await door.key(credit="1")
        messages = [{"role": "user", "content": "x" * chars}]
        answer = await door.chat(key, model=PRICED["id"], messages=messages, max_tokens=16, stream=is_stream)
        assert answer.status_code == status
        if status == 400:
            assert error_of(answer)["code"] == "context_length_exceeded"
        assert sum(asked.path == "/tokenize" for asked in backend.asked) == questions
        assert len(backend.chats) == (status == 200)
        await door.nothing_is_left()


@pytest.mark.parametrize("listed", [WINDOW, WINDOW - 1])
async def test_nothing_is_counted_where_the_backend_knows_the_window_itself(tmp_path: Path, listed: int) -> None:
    async with (
        ReplayingBackend(max_model_len=listed) as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=[narrow()]) as door,
    ):
        messages = [{"role": "user", "content": "x" * 1000}]
        key = await door.key(credit="1")
        assert (await door.chat(key, model=PRICED["id"], messages=messages, max_tokens=16)).status_code == 200
        assert not any(asked.path == "/tokenize" for asked in backend.asked)


async def test_a_window_below_the_backends_is_a_warning_once_and_when_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        ReplayingBackend(max_model_len=4096) as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=[narrow()]) as door,
    ):
        assert caplog.text.count("its backend's 4096") == 1
        backend.models = ("tiny", "another")
        await door.gateway.pool.discover()
        assert caplog.text.count("its backend's 4096") == 1
        backend.max_model_len = 8192
        await door.gateway.pool.discover()
        assert caplog.text.count("its backend's 8192") == 1


@pytest.mark.parametrize("is_priced", [True, False])
async def test_an_unknown_window_of_a_priced_model_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_priced: bool
) -> None:
    model = {name: value for name, value in PRICED.items() if name != "context_window"}
    if not is_priced:
        del model["pricing"]
    async with (
        ReplayingBackend(max_model_len=0) as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=[model]),
    ):
        assert ("tell the window of priced/tiny" in caplog.text) == is_priced


async def test_an_answer_without_a_limit_is_believed_up_to_any_window_where_none_is_known(tmp_path: Path) -> None:
    model = {name: value for name, value in PRICED.items() if name != "context_window"}
    async with (
        ReplayingBackend(max_model_len=0) as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=[model]) as door,
    ):
        backend.answer_with(unary(9, 20_000))
        account = await door.account("1")
        assert (await door.chat(await door.key(account), model=PRICED["id"])).status_code == 200
        assert await door.balance_nano(account) == 10**9 - 9 * 300 - 20_000 * 700
