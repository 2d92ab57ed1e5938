"""Who counts limits, as the settings say."""

import sys
from pathlib import Path

import pytest

from mcp_gateway.core.config import ConfigError, Settings
from mcp_gateway.core.limiting import limiting
from mcp_gateway.core.observe.metrics import Metrics
from tests.serving import Clock


async def test_a_missing_package_is_told_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        name for name in sys.modules if name.startswith(("mcp_gateway.core.valkey.", "mcp_gateway.core.limits.s"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    for name in (
        "mcp_gateway.core.inference.shared",
        "mcp_gateway.core.limits.shared",
        "mcp_gateway.core.limits.scripts",
    ):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "hiredis", None)
    settings = Settings.model_validate({"valkey_url": "valkey://127.0.0.1"})
    with pytest.raises(ConfigError, match=r"pip install 'mcp-gateway\[valkey\]'"):
        await limiting(settings, Clock(), None, Metrics())


async def test_a_file_of_authorities_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    settings = Settings.model_validate({"valkey_url": "valkeys://127.0.0.1", "valkey_ca_file": tmp_path / "none.pem"})
    with pytest.raises(ConfigError, match="valkey_ca_file"):
        await limiting(settings, Clock(), None, Metrics())
