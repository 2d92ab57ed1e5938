"""Who carries out every write and answers every read on any engine; some have a few of their own beside these."""

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
    daily_sums,
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
    settlements,
    shared_secrets,
    status_board,
    usage,
    users,
    webhooks,
)

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
    | daily_sums.EXECUTORS
    | settlements.EXECUTORS
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
    | shared_secrets.EXECUTORS
    | status_board.EXECUTORS
    | usage.EXECUTORS
    | users.EXECUTORS
    | identities.EXECUTORS
    | webhooks.EXECUTORS
)
