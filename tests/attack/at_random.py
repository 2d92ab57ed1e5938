"""Cases that follow from dice, one after the other for a while, with a pinger beside them.

Each kind runs for ATTACK_SECONDS (60). Case number N of a seed is the same each time, and a failure prints both:
`ATTACK_SEED=... ATTACK_CASE=... make attack` repeats it alone.
"""

import asyncio
import itertools
import os
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from random import Random

from tests.attack.target import HONEST_GUEST, MOST_HELD_MS, Target, pinging

SECONDS = float(os.environ.get("ATTACK_SECONDS", "60"))
SEED = int(os.environ.get("ATTACK_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
ONLY = int(os.environ.get("ATTACK_CASE", "-1"))
WORKERS = 6
PATIENCE_S = 60
OUR_FAULT = re.compile(rb"HTTP/1\.1 500 |internal_error|\"code\":-32603|on our side")
"""What no answer may hold."""

Case = Callable[[Random], Awaitable[object]]
"""One case, which follows from its dice; raises AssertionError where the server fails."""


async def each_case(case: Case) -> int:
    """Cases one after the other, by some workers, until the time is over; how many there were."""
    numbers = iter([ONLY]) if ONLY >= 0 else itertools.count()
    end_s = time.monotonic() + SECONDS
    done = Counter[str]()

    async def work(numbers: Iterator[int]) -> None:
        for number in numbers:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await case(Random(f"{SEED}/{number}"))
            except (AssertionError, TimeoutError) as failure:
                failure.add_note(f"to repeat it: ATTACK_SEED={SEED} ATTACK_CASE={number} make attack")
                raise
            done["cases"] += 1
            if time.monotonic() > end_s:
                return

    async with asyncio.TaskGroup() as workers:
        for _ in range(1 if ONLY >= 0 else WORKERS):
            workers.create_task(work(numbers))
    return done["cases"]


async def others_are_served_during(target: Target, case: Case) -> None:
    """A pinger beside the cases, and honest callers after them."""
    async with pinging(target.program) as pinger:
        count = await each_case(case)
        pings = await pinger.look()
    print(f"seed {SEED}: {count} cases, {pings}")
    assert pings.count
    assert pings.held_ms < MOST_HELD_MS
    await target.serves(target.key(-1), HONEST_GUEST)
