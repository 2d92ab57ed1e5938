"""`mcp-gateway usage rebuild`: the sums by the hour held against the requests, and put right."""

from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from mcp_gateway.cli.desk import ConfigOption, DataDirOption, JsonOption, answer, at_desk
from mcp_gateway.core.gateway import Desk
from mcp_gateway.core.observe.hourly_sums import SumsDifference
from mcp_gateway.core.text import shown

app = typer.Typer(help="What requests come to.", no_args_is_help=True)
_NUMBERS = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "cost_nano")
_MOST_TOLD = 1000


@app.command("rebuild")
def rebuild_sums(
    only_tell: Annotated[
        bool, typer.Option("--only-tell", help="Change nothing; exits with 1 where sums differ.")
    ] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Put the hourly sums right by the requests' records, as far as these reach, and tell what differed."""

    async def work(desk: Desk) -> None:
        counts: Counter[str] = Counter()
        told: list[dict[str, Any]] = []
        async for one in desk.hourly_sums.rebuild(changes=not only_tell):
            counts[one.sums] += 1
            if len(told) < _MOST_TOLD:
                told.append(_object(one))
        differ = sum(counts.values())
        facts = {"are_changed": bool(differ) and not only_tell, "differing": differ, "differences": told}
        lines = [_words(one) for one in told]
        if differ > len(told):
            lines.append(f"and {differ - len(told)} more")
        outcome = "left as they are" if only_tell else "put right"
        lines.append(
            f"{differ} sums differed, and were {outcome}" if differ else "every sum is what its requests come to"
        )
        answer("\n".join(lines), facts, is_json=is_json)
        if differ and only_tell:
            raise typer.Exit(1)

    at_desk(config, data_dir, work)


def _object(one: SumsDifference) -> dict[str, Any]:
    account_id, hour, key_id, model, *further = one.names
    at = datetime.fromtimestamp(int(hour) * 3600, UTC).isoformat()
    named = {"sums": one.sums, "hour": at, "account": account_id, "key": key_id, "model": model, "of": further}
    return named | dict(zip(_NUMBERS, one.numbers, strict=True))


def _words(told: dict[str, Any]) -> str:
    names = " ".join(shown(str(name)) for name in (told["account"], told["key"], told["model"], *told["of"]) if name)
    numbers = ", ".join(f"{name} {told[name]:+}" for name in _NUMBERS if told[name])
    return f"{told['sums']} {told['hour']} {names}: {numbers}"
