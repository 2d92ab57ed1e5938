"""The console from the wheel as it is built: templates and files are inside, and nothing of the source is needed."""

import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.patience import PATIENCE_S
from tests.program import running_program

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
MARK = b"<!-- as it was installed -->"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """What the wheel holds, with a mark in one of its files."""
    folder = tmp_path / "installed"
    pip("wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    pip("install", "--no-deps", "--target", folder, wheel)
    icon = folder / "http_api" / "console" / "static" / "icon.svg"
    icon.write_bytes(icon.read_bytes() + MARK)
    return folder


async def test_the_wheel_serves_pages_and_what_they_refer_to(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(f'port = 0\ndata_dir = "{tmp_path / "data"}"\n')
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.chdir(tmp_path)
    async with (
        running_program(config) as program,
        httpx2.AsyncClient(base_url=program.url, trust_env=False, timeout=PATIENCE_S) as client,
    ):
        page = await client.get("/console/sign-in")
        assert page.status_code == 200
        files = set(re.findall(r'(?:href|src)="(/console/static/[^"]+)"', page.text))
        answers = {path.rpartition("/")[2]: await client.get(path) for path in files}
        assert answers.keys() >= {"console.css", "console.js", "parts.js", "icon.svg"}
        assert {answer.status_code for answer in answers.values()} == {200}
        assert answers["icon.svg"].content.endswith(MARK)


def pip(*arguments: object) -> None:
    words = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
