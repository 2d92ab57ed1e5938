"""The books compared at start: wallets against a checkpoint and what came since, so that starting stays fast."""

from mcp_gateway.core.engine import Engine
from mcp_gateway.core.ledger.entries import VerifySinceCheckpoint


class LedgerBroken(Exception):
    """Balances differ from their entries; the text says which, in nano-USD."""


async def verify_since_checkpoint(store: Engine) -> None:
    """Compare every wallet, then move the checkpoint here. Raises LedgerBroken, moving nothing, where one differs."""
    differences = await store.write(VerifySinceCheckpoint())
    if differences:
        rows = "; ".join(", ".join(map(str, row)) for row in differences)
        raise LedgerBroken(
            "balances differ from their entries (account; paid, granted by the wallet; by the entries): "
            f"{rows}. Run `mcp-gateway ledger check`, and restore a backup or ask for help before serving"
        )
