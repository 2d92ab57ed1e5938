"""Runs the official conformance suite against our door, and our bridge: `python -m tests.conformance SUITES`.

Each suite's own exit status decides. The server is the real one; what its MCP door offers are the suite's fixtures.
"""

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from http_api.app import build_app
from http_api.connection import Bounds
from http_api.program import census_of
from http_api.serve import DrainingServer, config_of
from mcp_gateway.core.config import Settings
from mcp_gateway.core.gateway import open_gateway
from mcp_gateway.mcp_door.endpoints import McpDoor
from tests.conformance.authorization import run_authorization
from tests.conformance.fixtures import DoorBus, build

HERE = Path(__file__).parent
RUNS = (
    ("0.1.16", ("--suite", "active")),
    ("0.2.0-alpha.12", ("--requirements", "2025-11-25")),
    ("0.2.0-alpha.12", ("--requirements", "2026-07-28")),
)
BRIDGE_RUNS = (
    ("0.1.16", "initialize", ()),
    ("0.1.16", "tools_call", ()),
    ("0.1.16", "sse-retry", ()),
    ("0.2.0-alpha.12", "tools_call", ("--spec-version", "2026-07-28")),
    ("0.2.0-alpha.12", "request-metadata", ("--spec-version", "2026-07-28")),
    ("0.2.0-alpha.12", "http-standard-headers", ("--spec-version", "2026-07-28")),
)
AUTHORIZATION_RUN = "0.2.0-alpha.12"
GUESTS = {"requests_per_minute": 100_000, "in_flight_per_address": 1000}


@contextlib.asynccontextmanager
async def served_fixtures(data_dir: Path) -> AsyncIterator[str]:
    """The door's address while it is served."""
    settings = Settings.model_validate({"data_dir": data_dir, "port": 0, "guests": GUESTS, "log_level": "warning"})
    bus = DoorBus()
    async with open_gateway(settings) as gateway:
        door = McpDoor(
            build(bus),
            settings=settings,
            lifecycle=gateway.lifecycle,
            addresses=gateway.addresses,
            new_id=gateway.new_id,
            count_listing=gateway.limiter.count_listing,
            max_body_bytes=lambda _: settings.max_body_bytes,
            note_refusal=gateway.refusals.note,
        )
        bus.publish_at_door = door.publish
        app = build_app(gateway, door, base_url="http://127.0.0.1")
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        census = census_of(gateway, 1000)
        config = config_of(
            app,
            host="127.0.0.1",
            port=0,
            bounds=Bounds(65536, 60),
            census=census,
            note_refusal=gateway.refusals.note,
            drain_timeout_s=5,
        )
        server = DrainingServer(config, gateway.lifecycle, 0, 5, lambda _, port_: port.set_result(port_))
        async with door.run():
            serving = asyncio.ensure_future(server.serve())
            try:
                yield f"http://127.0.0.1:{await port}/v1/mcp"
            finally:
                server.should_exit = True
                await serving


async def run(suites: Path, version: str, *arguments: str) -> bool:
    """Run one command of a version of the suite. False where it failed, after its output was shown."""
    node, program = programs_of(suites, version)
    with tempfile.TemporaryDirectory() as results:
        process = await asyncio.create_subprocess_exec(
            node, program, *arguments, "-o", results, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output = (await process.communicate())[0].decode()
    chosen = " ".join(argument for argument in arguments if "/" not in argument)
    return has_passed(version, chosen, process.returncode, output)


async def run_with_a_person(suites: Path, version: str) -> bool:
    """The same of the scenarios for authorization servers, which somebody has to let in."""
    node, program = programs_of(suites, version)
    with tempfile.TemporaryDirectory() as results, tempfile.TemporaryDirectory() as data_dir:
        status, output = await run_authorization(node, program, Path(data_dir), results)
    return has_passed(version, "authorization", status, output)


def programs_of(suites: Path, version: str) -> tuple[Path, Path]:
    """Node, and what it runs."""
    suite = suites / version / "node_modules/@modelcontextprotocol/conformance/dist/index.js"
    return suites / "node/bin/node", suite


def has_passed(version: str, chosen: str, status: int | None, output: str) -> bool:
    """Shows the totals, or all that was printed where something failed."""
    is_good = status == 0
    print(f"\n{version} {chosen}: {'passed' if is_good else 'FAILED'}")
    totals = [line for line in output.splitlines() if line.startswith(("Total:", "Passed:", "Not scored"))]
    print("\n".join(totals) if is_good else output, flush=True)
    return is_good


async def main(suites: Path) -> int:
    """The exit status: 0 where everything passed."""
    with tempfile.TemporaryDirectory() as data_dir:
        async with served_fixtures(Path(data_dir)) as url:
            passed = [await run(suites, version, "server", "--url", url, *chosen) for version, chosen in RUNS]
    driver = f"{sys.executable} {HERE / 'bridge_driver.py'}"
    for version, scenario, chosen in BRIDGE_RUNS:
        passed.append(await run(suites, version, "client", "--command", driver, "--scenario", scenario, *chosen))
    passed.append(await run_with_a_person(suites, AUTHORIZATION_RUN))
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]).absolute())))
