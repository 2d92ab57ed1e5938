"""Who carries out every write and answers every read that there is."""

from mcp_gateway.core.store.sql import (
    accounts,
    admin_keys,
    answers,
    archive,
    audit,
    auto_topups,
    budgets,
    closing,
    counters,
    hourly_sums,
    identities,
    keys,
    ledger,
    limits,
    models,
    months,
    oauth,
    orders,
    outcomes,
    payments,
    requests,
    retention,
    service_notice,
    status_board,
    usage,
    users,
    webhooks,
)
from mcp_gateway.core.store.sqlite import ledger as hot_ledger
from mcp_gateway.core.store.sqlite import space

EXECUTORS = (
    accounts.EXECUTORS
    | admin_keys.EXECUTORS
    | keys.EXECUTORS
    | answers.EXECUTORS
    | archive.EXECUTORS
    | audit.EXECUTORS
    | auto_topups.EXECUTORS
    | budgets.EXECUTORS
    | closing.EXECUTORS
    | hourly_sums.EXECUTORS
    | hot_ledger.EXECUTORS
    | ledger.EXECUTORS
    | payments.EXECUTORS
    | requests.EXECUTORS
    | models.EXECUTORS
    | months.EXECUTORS
    | limits.EXECUTORS
    | counters.EXECUTORS
    | oauth.EXECUTORS
    | orders.EXECUTORS
    | outcomes.EXECUTORS
    | retention.EXECUTORS
    | service_notice.EXECUTORS
    | space.EXECUTORS
    | status_board.EXECUTORS
    | usage.EXECUTORS
    | users.EXECUTORS
    | identities.EXECUTORS
    | webhooks.EXECUTORS
)
