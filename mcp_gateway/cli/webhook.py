"""`mcp-gateway accounts webhook`: where an account is told of its money, below which balance, and by which secret."""

from typing import Annotated

import typer

from mcp_gateway.cli.desk import (
    AccountArgument,
    ConfigOption,
    DataDirOption,
    JsonOption,
    QuietOption,
    amount,
    answer,
    at_desk,
    fail,
)
from mcp_gateway.core.gateway import Desk


def change_webhook(
    account: AccountArgument,
    url: Annotated[
        str | None, typer.Argument(help="https://...: tell it there from now on; off: nowhere, and drop what waits.")
    ] = None,
    low_balance: Annotated[
        str | None,
        typer.Option(help="Tell it, and the operator, when it owns less; none: not any more.", metavar="USD|none"),
    ] = None,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="A new secret; the former one signs beside it for a day.")
    ] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    quiet: QuietOption = False,
    is_json: JsonOption = False,
) -> None:
    """Show or change where an account is told of its money; a secret that is made is shown this once."""
    mark_nano = None if low_balance in (None, "none") else amount(low_balance)
    if rotate and url is not None:
        fail("--rotate makes a new secret of the webhook that there is: leave the address out")

    async def work(desk: Desk) -> None:
        await desk.accounts.get(account)
        secret = None
        if url == "off":
            await desk.webhooks.remove(account)
        elif url is not None:
            secret = await desk.webhooks.put(account, url)
        elif rotate:
            secret = await desk.webhooks.rotate(account)
        if low_balance is not None:
            await desk.webhooks.set_low_balance(account, mark_nano)
        standing = await desk.webhooks.of(account)
        words = f"account {account}: {standing.in_words()}"
        if secret is not None:
            words = secret if quiet else f"{words}; keep the secret, it is not shown again:\n{secret}"
        made = {} if secret is None else {"secret": secret}
        answer(words, {"id": account, **standing.as_object(), **made}, is_json=is_json)

    at_desk(config, data_dir, work)
