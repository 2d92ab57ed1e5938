"""The console script. What is started often, and needs none of the server, goes first: the bridge by desktop clients,
and the question whether a gateway lives by containers, in the very words that their image has.
"""

import sys

_LIVE_WORDS = 5


def main() -> None:
    if sys.argv[1:2] == ["bridge"]:
        from bridge.mcp_stdio_bridge import main as run_bridge  # noqa: PLC0415 - see above

        sys.exit(run_bridge(sys.argv[2:]))
    if len(sys.argv) == _LIVE_WORDS and sys.argv[1:4] == ["health", "--live", "--url"]:
        from mcp_gateway.health import is_live_at  # noqa: PLC0415 - see above

        sys.exit(not is_live_at(sys.argv[4]))
    from pydantic import BaseModel, TypeAdapter  # noqa: PLC0415 - see above

    # Of the 850 models that are declared, most by the MCP SDK, a server uses few: each is built when it is first used,
    # and so is each adapter of several of them, for which pydantic has no setting in common.
    BaseModel.model_config["defer_build"] = True
    TypeAdapter._defer_build = True  # type: ignore[assignment, method-assign]
    if sys.argv[1:2] == ["serve"]:
        from mcp_gateway.cli.serve import main as run_server  # noqa: PLC0415 - see above

        run_server()
    from mcp_gateway.cli.commands import main as run_command  # noqa: PLC0415 - see above

    run_command()


if __name__ == "__main__":
    main()
