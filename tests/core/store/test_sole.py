"""One server a data folder."""

import threading
from functools import partial
from pathlib import Path

import pytest

from mcp_gateway.core.store.sole import AlreadyServed, sole_server

second = partial(sole_server, patience_s=0)


def test_a_second_server_of_a_folder_is_refused_as_long_as_the_first_runs(tmp_path: Path) -> None:
    with sole_server(tmp_path), pytest.raises(AlreadyServed, match="already serves"), second(tmp_path):
        pass
    with second(tmp_path):
        pass


def test_a_server_waits_for_a_command_that_has_the_lock_for_a_moment(tmp_path: Path) -> None:
    has_lock, may_end = threading.Event(), threading.Event()

    def command() -> None:
        with sole_server(tmp_path):
            has_lock.set()
            may_end.wait(60)

    thread = threading.Thread(target=command)
    thread.start()
    assert has_lock.wait(60)
    with pytest.raises(AlreadyServed), second(tmp_path):
        pass
    may_end.set()
    with sole_server(tmp_path, patience_s=60):
        thread.join()
