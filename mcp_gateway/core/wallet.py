"""A wallet as its owner is told of it, by both doors in the same words."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class WalletObject(BaseModel):
    """Amounts are decimal strings, which lose nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    currency: str
    balance_usd: Annotated[str, Field(description="What can be spent, granted credit included.")]
    granted_usd: Annotated[str, Field(description="The part of the balance that was granted.")]
    held_usd: Annotated[str, Field(description="Set aside for requests that are running.")]
    leased_usd: Annotated[str, Field(description="Set aside for leases: budgets that only their holders can spend.")]
