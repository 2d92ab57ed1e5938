"""A gateway before a backend of scripts, and the cases that programs are tried with.

Each try has an account of its own, whose records tell how many requests the program made and what they cost.
"""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.money import format_usd
from tests.clients import scripts
from tests.clients.shapes import COMPLETION_TOKENS, PROMPT_TOKENS
from tests.replaying import Asked, ReplayingBackend
from tests.serving import UNLIMITED, Door, open_door

WINDOW = 200_000
PROMPT_NANO, COMPLETION_NANO = 300, 700
COST_NANO = PROMPT_TOKENS * PROMPT_NANO + COMPLETION_TOKENS * COMPLETION_NANO
BEGUN_NANO = PROMPT_TOKENS * PROMPT_NANO + COMPLETION_NANO
NO_TURN = OwnLimits(None, None, None, in_flight=0)
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE = f"data:image/png;base64,{PIXEL}"


class Case(NamedTuple):
    """What a program is tried with: a script, and an account that may be empty or have no turn."""

    script: str
    credit_usd: str = "1"
    limits: OwnLimits = UNLIMITED


CASES = {
    "answer": Case("says"),
    "parallel tools": Case("calls"),
    "thinking": Case("thinks"),
    "image": Case("sees"),
    "cut answer": Case("cut"),
    "cancel": Case("stays"),
    "broken answer": Case("dies"),
    "402": Case("says", credit_usd="0"),
    "429": Case("busy"),
    "429 of a limit": Case("says", limits=NO_TURN),
    "503": Case("unloaded"),
    "context overflow": Case("overflows"),
}


class Told(NamedTuple):
    """What the gateway has recorded of a caller's requests, in their order."""

    statuses: list[int]
    cost_nano: int


def of_case(case: str, retries: int = 0) -> Told:
    """The requests that a case takes, of which those that a wait may help are made again; a refusal is always free.

    Whoever leaves a stream, or sees it break, pays the prompt and the token that had come. What a limit refuses is
    recorded once, however often it is tried.
    """
    return {
        "parallel tools": Told([200, 200], 2 * COST_NANO),
        "cancel": Told([499], BEGUN_NANO),
        "broken answer": Told([502], BEGUN_NANO),
        "402": Told([402], 0),
        "429": Told([429] * (1 + retries), 0),
        "429 of a limit": Told([429], 0),
        "503": Told([503] * (1 + retries), 0),
        "context overflow": Told([400], 0),
    }.get(case, Told([200], COST_NANO))


def model(script: str) -> str:
    """The alias by which clients ask for a script; some list no names but such."""
    return f"claude-{script}"


def provided(script: str) -> str:
    """The same of one that a provider has, which knows chats alone."""
    return f"claude-provided-{script}"


class Stage(NamedTuple):
    """The gateway and its backend."""

    door: Door
    backend: ReplayingBackend

    async def caller(self, case: Case) -> tuple[str, str]:
        """The account and the key of a caller that nobody was before."""
        account_id = await self.door.account(case.credit_usd)
        return account_id, await self.door.key(account_id, limits=case.limits)

    async def told_of(self, account_id: str) -> Told:
        await self.door.nothing_is_left()
        sql = "SELECT http_status, cost_nano, error_code FROM requests WHERE account_id = ? ORDER BY started_at_ms"
        rows = await self.door.rows(sql, account_id)
        again = {number for number, row in enumerate(rows[1:], 1) if row[2] == "in_flight"}  # in the minute after
        return Told([row[0] for number, row in enumerate(rows) if number not in again], sum(row[1] for row in rows))

    def asked(self, script: str) -> list[Asked]:
        """What the backend was asked of a script."""
        return [asked for asked in self.backend.chats if asked.json["model"] == script]


@contextlib.asynccontextmanager
async def open_stage(data_dir: Path) -> AsyncIterator[Stage]:
    async with (
        ReplayingBackend(*scripts.MODELS, max_model_len=WINDOW) as backend,
        open_door(
            data_dir,
            vllm_urls=[backend.url],
            providers=[{"name": "scripts", "kind": "openai", "base_url": f"{backend.url}/v1", "auth": "none"}],
            models=[*map(_published, scripts.MODELS), *map(_provided, scripts.MODELS)],
            enable_vision=True,
            upstream={"collect_above_tokens": 10**6},
        ) as door,
    ):
        backend.standing = scripts.by_its_name
        yield Stage(door, backend)


def _published(script: str) -> dict[str, Any]:
    return {
        "id": f"scripted/{script}",
        "aliases": [model(script)],
        "backend_model": script,
        "context_window": WINDOW,
        "input_modalities": ["text", "image"],
        "pricing": {"prompt": format_usd(PROMPT_NANO), "completion": format_usd(COMPLETION_NANO)},
    }


def _provided(script: str) -> dict[str, Any]:
    return _published(script) | {"id": f"provided/{script}", "aliases": [provided(script)], "provider": "scripts"}
