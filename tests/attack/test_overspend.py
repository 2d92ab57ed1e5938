"""Many requests at once on a wallet that affords few, by every surface: it is never overspent by a nano-dollar."""

from pathlib import Path
from typing import Any

import pytest

from tests.replaying import ReplayingBackend
from tests.serving import WORST, open_door
from tests.stage import PRICED, staged
from tests.surfaces import Spoken, every_surface

pytestmark = pytest.mark.slow


@every_surface
async def test_a_wallet_worth_ten_requests_serves_exactly_ten_of_two_hundred_at_once(
    tmp_path: Path, spoken: Spoken
) -> None:
    settings: dict[str, Any] = {"models": [PRICED], "wallet": WORST | {"hold_wait_s": 0}}
    async with ReplayingBackend() as backend, open_door(tmp_path, vllm_urls=[backend.url], **settings) as door:
        await (await staged(door, backend)).race(spoken, affords=10, asked=200)
