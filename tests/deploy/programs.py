"""The programs that look at what is deployed; `make test-deploy` installs them into a folder of their own."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
INSTALLED = ROOT / "build" / "deploy"


def run(
    program: str, *arguments: object, given: str | None = None, cwd: Path = DEPLOY
) -> subprocess.CompletedProcess[str]:
    """How it ended, and what it said."""
    found = INSTALLED / "bin" / program
    if not found.exists():
        pytest.fail(f"{found} is missing: `make test-deploy` installs it")
    return subprocess.run(
        [found, *map(str, arguments)], cwd=cwd, input=given, capture_output=True, text=True, check=False
    )


def accepted(program: str, *arguments: object, given: str | None = None, cwd: Path = DEPLOY) -> str:
    """What it said, on its standard output, of what it must find good."""
    ended = run(program, *arguments, given=given, cwd=cwd)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def refused(program: str, *arguments: object, given: str | None = None, cwd: Path = DEPLOY) -> str:
    """All that it said of what it must find wrong."""
    ended = run(program, *arguments, given=given, cwd=cwd)
    assert ended.returncode != 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr
