"""docs/tutorial.md: every command works as it stands, in order, but for the port and the installation."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.clients.installed import ROOT, environment
from tests.program import running_program

pytestmark = pytest.mark.slow

TEXT = (ROOT / "docs" / "tutorial.md").read_text()
WRITE_CONFIGURATION, START, *COMMANDS = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.M | re.S)


async def pasted(commands: str, folder: Path) -> str:
    """What a shell prints, in which nothing may fail."""
    shell = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", "-c", commands, cwd=folder, env=environment(), stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await shell.communicate()
    assert shell.returncode == 0, printed.decode()
    return printed.decode()


async def test_every_command_of_the_tutorial_works_as_pasted(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    assert START == "make serve\n"
    await pasted(WRITE_CONFIGURATION, tmp_path)
    config = tmp_path / "gateway.toml"
    config.write_text("port = 0\n" + config.read_text().replace("build/tutorial", str(tmp_path / "build" / "tutorial")))
    async with running_program(config) as program:
        printed = await pasted("".join(COMMANDS).replace(":8080", f":{program.port}"), tmp_path)
    told = [
        "x-cost-usd: 0.00000345", '"cost_usd":"0.00000345"', "['chat_completion', ", "'cost_usd': '0.00000345'",
        '"requests":3,', "balance 4.99998965 USD", "every balance equals its entries", "nothing of it is kept",
        '"code":"insufficient_balance"',
    ]  # fmt: skip
    assert [words for words in told if words not in printed] == []
