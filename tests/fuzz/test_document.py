"""schemathesis reads /openapi.json and asks whatever it allows and forbids.

No undeclared answer, no error of the server's, and nothing accepted that the document forbids.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from tests.fake_stripe import fake_stripe, settings_of
from tests.serving import Door, open_door

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
PROGRAM = HERE.parents[1] / "build" / "fuzz" / "bin" / "schemathesis"
EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "20")
"""The most that are tried of each operation at random, beside those by the edges of each schema."""
SEED = os.environ.get("FUZZ_SEED", "1")
MOST_S = 400
NO_LIMITS = {
    "requests_per_minute": "none",
    "requests_per_day": "none",
    "tokens_per_minute": "none",
    "in_flight": "none",
    "listing_requests_per_minute": 10**9,
    "keys_per_account": 10**6,
    "keys_per_account_per_day": 10**6,
}


@pytest.mark.parametrize("prefix", ["^/(?!api/)", "^/api/"], ids=["openai", "inference"])
async def test_the_gateway_keeps_to_its_document(tmp_path: Path, prefix: str) -> None:
    settings: dict[str, Any] = {
        "limits": NO_LIMITS,
        "guests": {"enabled": False},
        "public_models": False,
        "mcp": {"expose_tools": True},
    }
    with fake_stripe() as stripe:
        async with open_door(tmp_path, stripe=settings_of(stripe), **settings) as door:
            status, told = await told_by_schemathesis(door, prefix)
            assert status == 0, told
            await door.nothing_is_left()


async def told_by_schemathesis(door: Door, prefix: str) -> tuple[int | None, str]:
    """Its exit status, and what it says."""
    key = await door.key(credit="1000")
    words = (
        f"--config-file {HERE / 'schemathesis.toml'} run {door.url}/openapi.json --url {door.url} --checks all "
        f"--seed {SEED} --max-examples {EXAMPLES} --workers 2 --phases examples,coverage,fuzzing,stateful "
        f"--include-path-regex {prefix} --continue-on-failure --no-color --header"
    ).split()
    program = await asyncio.create_subprocess_exec(
        PROGRAM,
        *words,
        f"Authorization: Bearer {key}",
        cwd=door.data_dir,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(MOST_S):
            told, _ = await program.communicate()
    finally:
        if program.returncode is None:
            program.kill()
    return program.returncode, told.decode(errors="replace")
