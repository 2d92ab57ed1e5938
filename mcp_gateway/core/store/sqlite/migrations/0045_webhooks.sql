-- Who is told when thresholds are crossed: accounts by their ids, and the operator, whose secret stands in the settings.
CREATE TABLE webhooks (
    receiver TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    set_at_ms INTEGER NOT NULL,
    secret TEXT,
    former_secret TEXT, -- signs beside the other until then
    former_until_ms INTEGER
) STRICT, WITHOUT ROWID;

-- What is still to be delivered to whom; a row goes once it is delivered or given up.
CREATE TABLE webhook_outbox (
    receiver TEXT NOT NULL REFERENCES webhooks (receiver),
    event_id TEXT NOT NULL,
    body TEXT NOT NULL, -- JSON, sent as it stands here
    tries INTEGER NOT NULL,
    due_at_ms INTEGER NOT NULL,
    PRIMARY KEY (receiver, event_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX webhook_outbox_due ON webhook_outbox (receiver, due_at_ms, event_id);

-- Of each window of a budget, which thresholds have been told: each once, whatever is given back meanwhile.
CREATE TABLE told_thresholds (
    budget_id TEXT NOT NULL REFERENCES budgets (id),
    starts_at_ms INTEGER NOT NULL,
    percent INTEGER NOT NULL,
    PRIMARY KEY (budget_id, starts_at_ms, percent)
) STRICT, WITHOUT ROWID;

-- Below which balance an account is told so, and whether it was since money last came in from outside.
CREATE TABLE low_balances (
    account_id TEXT PRIMARY KEY REFERENCES accounts (id),
    mark_nano INTEGER NOT NULL CHECK (mark_nano > 0),
    is_told INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
