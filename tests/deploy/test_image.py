"""The image: its Dockerfile as hadolint reads it, what goes into it, and what it starts. No daemon is asked."""

import json
import re
import shutil
import subprocess
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cases import each
from tests.deploy.programs import DEPLOY, ROOT, accepted, refused
from tests.test_pages import parse

pytestmark = pytest.mark.slow
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
COMMENT = re.compile(r"^\s*#.*\n", re.MULTILINE)


def instructions() -> list[tuple[str, str]]:
    """With continued lines as one."""
    lines = COMMENT.sub("", DOCKERFILE.read_text()).replace("\\\n", " ").splitlines()
    return [(name, " ".join(rest.split())) for name, _, rest in (line.partition(" ") for line in lines) if name]


def last(name: str) -> str:
    return [rest for word, rest in instructions() if word == name][-1]


def copied() -> list[str]:
    """Of the project, into the stage that builds."""
    return [
        word for name, rest in instructions() if name == "COPY" and "--from" not in rest for word in rest.split()[:-1]
    ]


def is_let_through(path: str) -> bool:
    """By .dockerignore, whose last line that fits decides, of a file or a folder above it."""
    is_through = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").replace("**/", "*")
        if (
            line
            and not line.startswith("#")
            and any(fnmatch(part, pattern) for part in (path, *(str(above) for above in Path(path).parents)))
        ):
            is_through = line.startswith("!")
    return is_through


def test_the_dockerfile_has_no_fault_that_hadolint_knows() -> None:
    assert accepted("hadolint", DOCKERFILE) == ""


def test_hadolint_finds_faults() -> None:
    told = refused("hadolint", "-", given="FROM python\nRUN cd /tmp && sudo pip install mcp\n")
    assert {"DL3003", "DL3004", "DL3006"} <= set(re.findall(r"DL\d+", told))


def test_it_runs_as_a_user_who_may_write_its_data_alone() -> None:
    assert (last("USER"), last("VOLUME"), last("STOPSIGNAL")) == ("10001:10001", "/var/lib/mcp-gateway", "SIGTERM")
    assert "--mode 0700 --owner 10001 --group 10001 /var/lib/mcp-gateway" in last("RUN")
    assert "GATEWAY_DATA_DIR=/var/lib/mcp-gateway" in last("ENV")


def test_what_it_starts_and_asks_for_its_health_are_commands_that_there_are() -> None:
    entry: list[str] = json.loads(last("ENTRYPOINT"))
    health: list[str] = json.loads(last("HEALTHCHECK").partition(" CMD ")[2])
    assert entry == ["mcp-gateway"] == health[:1]
    for words in (json.loads(last("CMD")), health[1:]):
        parse(" ".join(words))
    assert f"GATEWAY_PORT={urlsplit(health[-1]).port}" in last("ENV")


def test_every_package_that_is_installed_is_one_of_a_lock_file() -> None:
    installs = [
        part for name, rest in instructions() if name == "RUN" for part in rest.split("&&") if " install " in f"{part} "
    ]
    installs = [part for part in installs if "pip" in part]
    assert len(installs) == 3
    assert all("--require-hashes" in part or "--no-deps --no-index" in part for part in installs)


def test_what_it_takes_is_the_lock_file_s_and_what_other_engines_need() -> None:
    def pinned(file: Path) -> set[str]:
        return {line.split()[0] for line in file.read_text().splitlines() if "==" in line and line[0] not in " #"}

    more = pinned(DEPLOY / "requirements.txt") - pinned(ROOT / "requirements.txt")
    assert {name.partition("==")[0] for name in more} == {"asyncpg", "greenlet", "hiredis"}
    assert pinned(ROOT / "requirements.txt") <= pinned(DEPLOY / "requirements.txt")


@each(
    "path",
    [
        ".venv/bin/python",
        "gateway.toml",
        "deploy/secrets/metrics_token",
        "data/gateway.sqlite3",
        ".git/config",
        "tests/conftest.py",
        "mcp_gateway/__pycache__/x.pyc",
    ],
)
def test_what_does_not_belong_there_is_never_sent_to_whoever_builds(path: str) -> None:
    assert not is_let_through(path)


def test_what_is_copied_is_there_and_let_through() -> None:
    assert len(copied()) > 5
    for path in copied():
        assert (ROOT / path).exists()
        assert is_let_through(path)


def test_the_wheel_that_is_built_of_it_has_every_file_of_the_packages(tmp_path: Path) -> None:
    """By what the second lock file names, and from what is copied alone."""
    for path in copied():
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, tmp_path / path, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, tmp_path / path)
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    accepted("python", "-m", "pip", "wheel", "--quiet", *offline, "--wheel-dir", "dist", ".", cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("mcp_gateway-*.whl")
    listed = subprocess.run(
        ["git", "ls-files", "bridge", "http_api", "mcp_gateway"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(wheel) as built:
        assert set(listed.stdout.split()) <= set(built.namelist())
