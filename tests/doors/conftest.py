"""What the tests of a module share: a stand-in for Stripe, and a door that takes payments by it."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.fake_stripe import FakeStripe, fake_stripe, settings_of
from tests.serving import Door, open_door


@pytest.fixture(scope="module")
def shared_stripe() -> Iterator[FakeStripe]:
    with fake_stripe() as stripe:
        yield stripe


@pytest.fixture
def stripe(shared_stripe: FakeStripe) -> FakeStripe:
    """As it was at first, but for the customers that it knows."""
    shared_stripe.forget()
    return shared_stripe


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def paying_door(tmp_path_factory: pytest.TempPathFactory, shared_stripe: FakeStripe) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("door"), stripe=settings_of(shared_stripe)) as door:
        yield door
