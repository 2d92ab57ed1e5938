"""One server a data folder."""

from pathlib import Path

import pytest

from mcp_gateway.core.store.sole import AlreadyServed, sole_server


def test_a_second_server_of_a_folder_is_refused_as_long_as_the_first_runs(tmp_path: Path) -> None:
    with sole_server(tmp_path), pytest.raises(AlreadyServed, match="already serves"), sole_server(tmp_path):
        pass
    with sole_server(tmp_path):
        pass
