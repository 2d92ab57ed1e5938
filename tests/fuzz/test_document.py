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
CHECKS = "--checks all --exclude-checks use_after_free"
"""What is ended stays to be seen, with when: a key that was revoked, an account's webhook as none."""
NO_LIMITS = {
    "requests_per_minute": "none",
    "requests_per_day": "none",
    "tokens_per_minute": "none",
    "in_flight": "none",
    "listing_requests_per_minute": 10**9,
    "keys_per_account": 10**6,
    "keys_per_account_per_day": 10**6,
}


@pytest.mark.parametrize(
    ("asked_by", "operations"),
    [
        ("key", "--include-path-regex ^/(?!api/|auth/|v1/admin/)"),
        ("key", "--include-path-regex ^/api/"),
        ("person", "--include-path-regex ^/auth/(?!logout|refresh) --exclude-method DELETE"),
        ("administrator", "--include-path-regex ^/v1/admin/(?!drain)"),
    ],
    ids=["openai", "inference", "people", "admin"],
)
async def test_the_gateway_keeps_to_its_document(tmp_path: Path, asked_by: str, operations: str) -> None:
    """All but what would end the session that asks, or the gateway."""
    settings: dict[str, Any] = {
        "limits": NO_LIMITS,
        "guests": {"enabled": False},
        "public_models": False,
        "mcp": {"expose_tools": True},
    }
    with fake_stripe() as stripe:
        async with open_door(tmp_path, stripe=settings_of(stripe, auto_topup=True), **settings) as door:
            account_id = await door.account("1000")
            secret = await secret_of(door, asked_by, account_id)
            there = await what_is_there(door, account_id)
            status, told = await told_by_schemathesis(door, secret, operations, there)
            assert status == 0, told
            await door.nothing_is_left()


async def secret_of(door: Door, asked_by: str, account_id: str) -> str:
    match asked_by:
        case "administrator":
            return await door.admin_key()
        case "person":
            return await door.person(account_id)
        case _:
            return await door.key(account_id)


async def what_is_there(door: Door, account_id: str) -> dict[str, str]:
    """For the environment of hooks.py: an account, and a key and a user of it beside the one that asks."""
    key, _ = await door.gateway.keys.create(account_id)
    user = await door.gateway.sign_in.people.create("user@example.com", password_hash=None, account_id=account_id)
    return {"FUZZ_ACCOUNT_ID": account_id, "FUZZ_KEY_ID": key.id, "FUZZ_USER_ID": user.id}


async def told_by_schemathesis(
    door: Door, secret: str, operations: str, there: dict[str, str]
) -> tuple[int | None, str]:
    """Its exit status, and what it says."""
    words = (
        f"--config-file {HERE / 'schemathesis.toml'} run {door.url}/openapi.json --url {door.url} "
        f"--seed {SEED} --max-examples {EXAMPLES} --workers 1 --phases examples,coverage,fuzzing,stateful "
        f"{operations} {CHECKS} --continue-on-failure --no-color --header"
    ).split()
    program = await asyncio.create_subprocess_exec(
        PROGRAM,
        *words,
        f"Authorization: Bearer {secret}",
        cwd=door.data_dir,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE)} | there,
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
