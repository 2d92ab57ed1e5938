"""`mcp-gateway providers check`: each provider's own list against what is sold here."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from mcp_gateway.cli.providers import _check
from mcp_gateway.core.config import Settings
from tests.providers.doubles import KEY, Generic, Ollama, serving
from tests.providers.kinds import KINDS, sweep
from tests.providers.test_contract import PRICES

LISTED = [kind() for kind in KINDS if kind is not Ollama]


async def told(settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """The exit status, and what is printed as JSON."""
    status = 0
    try:
        await _check(Settings.model_validate(settings), is_json=True)
    except typer.Exit as ended:
        status = ended.exit_code
    return status, json.loads(capsys.readouterr().out)


def sold(provider: str, name: str = "m-1", **more: Any) -> dict[str, Any]:
    return {"id": f"sold/{name}", "provider": provider, "backend_model": name, "pricing": PRICES} | more


@sweep("manner", LISTED, ids=lambda manner: type(manner).__name__)
async def test_a_model_that_is_listed_is_right_and_another_unknown(
    manner: Generic, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOUBLE_KEY", KEY)
    async with serving(manner) as double:
        url = {"models_url": f"{double.url}/any/models"} if manner.kind in ("cohere", "anthropic", "cloudflare") else {}
        models = [sold(manner.kind), sold(manner.kind, "m-2"), sold(manner.kind, pricing=None, id="un/priced")]
        settings = {"providers": [double.settings(**url)], "models": models}
        status, facts = await told(settings, capsys)
    assert status == 1
    assert [one["state"] for one in facts["models"]] == ["right", "unknown", "unpriced"]


async def test_all_that_is_right_ends_with_0_and_a_list_of_nothing_has_unknown_models(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOUBLE_KEY", KEY)
    async with serving(Generic()) as double, serving(Ollama()) as empty:
        providers = [double.settings("one"), empty.settings()]
        assert (await told({"providers": providers, "models": [sold("one")]}, capsys))[0] == 0
        status, facts = await told({"providers": providers, "models": [sold("ollama")]}, capsys)
        assert (status, facts["models"][0]["state"]) == (1, "unknown")


@pytest.mark.parametrize("end", [{"shutdown_date": "2026-12-01"}, {"is_deprecated": True}, {"active": False}])
async def test_a_model_whose_end_is_told_is_retired(
    end: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ending(Generic):
        def listing(self) -> Any:
            return {"data": [{"id": "m-1"} | end]}

    monkeypatch.setenv("DOUBLE_KEY", KEY)
    async with serving(Ending()) as double:
        status, facts = await told({"providers": [double.settings("one")], "models": [sold("one")]}, capsys)
    assert (status, facts["models"][0]["state"]) == (1, "retired")


async def test_what_keeps_a_list_from_being_had_is_told_of_each_provider(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOUBLE_KEY", "another")
    async with serving(Generic()) as double:
        url = double.url
        refused = double.settings("refused")
        keyless = double.settings("keyless", api_key_env=None, api_key_file=str(tmp_path / "none"))
        gone = double.settings("gone", base_url="http://127.0.0.1:9/v1", auth="none")
        status, facts = await told({"providers": [refused, keyless, gone]}, capsys)
    assert status == 1
    assert facts["faults"]["refused"] == "its list answered 401"
    assert facts["faults"]["keyless"] == "api_key_file cannot be read"
    assert facts["faults"]["gone"].startswith("its list cannot be had")
    assert url not in str(facts)
