"""A page in a real Chromium, where this machine has one, that uses both doors across origins."""

import json
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.clients.installed import MODEL, Gateway, Message, Pages, environment
from tests.patience import PATIENCE_S

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WITHHELD = {"withheld": "TypeError"}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]


def what_a_page_reads(gateway: Gateway, pages: Pages, host: str, profile: Path) -> Message:
    told = quote(json.dumps({"url": gateway.url, "key": gateway.key, "model": MODEL}))
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}")
    command = [CHROMIUM or "", *options, f"http://{host}:{pages.port}/page.html#{told}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()) as browser:
        try:
            return pages.seen.get(timeout=PATIENCE_S)
        finally:
            browser.terminate()


def test_a_page_of_a_named_origin_reads_answers_refusals_and_their_headers(
    gateway: Gateway, pages: Pages, tmp_path: Path
) -> None:
    seen = what_a_page_reads(gateway, pages, "127.0.0.1", tmp_path)
    assert seen["models"]["status"] == 200
    assert seen["models"]["headers"]["x-request-id"].startswith("req_")
    assert "You said: Hello" in seen["chat"]["text"]
    assert seen["chat"]["headers"]["x-cost-usd"] == "0.00"
    assert seen["stream"]["text"].endswith("data: [DONE]\n\n")
    assert (seen["wrongKey"]["status"], seen["wrongKey"]["headers"]["www-authenticate"][:6]) == (401, "Bearer")
    check_mcp(seen)


def test_a_page_on_loopback_that_nobody_named_reads_the_mcp_door_alone(
    gateway: Gateway, pages: Pages, tmp_path: Path
) -> None:
    seen = what_a_page_reads(gateway, pages, "localhost", tmp_path)
    assert [seen[name] for name in ("models", "chat", "stream", "wrongKey")] == [WITHHELD] * 4
    check_mcp(seen)


def check_mcp(seen: Message) -> None:
    assert seen["mcp"]["opened"]["headers"]["mcp-session-id"].startswith("mcp_")
    assert "chat_completion" in seen["mcp"]["tools"]["text"]
    assert seen["mcp"]["closed"]["status"] == 200
    assert seen["sse"] == {"jsonrpc": "2.0", "id": 1, "result": {}}
