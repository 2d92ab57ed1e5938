"""What tests of connections share."""

import contextlib
import os
import resource
from collections.abc import Iterator

from http_api.connection import Census


def uncapped() -> Census:
    """As many connections as a test likes."""
    return Census(most=10_000, most_per_address=10_000, is_shared=lambda _: False, on_refused=lambda _: None)


def unheard(_code: str, _address: str) -> None:
    """Where nobody counts refusals."""


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """The process may open none; what it has goes on."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
