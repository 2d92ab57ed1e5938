"""The console script. The bridge goes first: desktop clients start it often, and it needs none of the server."""

import sys


def main() -> None:
    if sys.argv[1:2] == ["bridge"]:
        from bridge.mcp_stdio_bridge import main as run_bridge  # noqa: PLC0415 - see above

        sys.exit(run_bridge(sys.argv[2:]))
    from mcp_gateway.cli import main as run_command  # noqa: PLC0415 - see above

    run_command()


if __name__ == "__main__":
    main()
