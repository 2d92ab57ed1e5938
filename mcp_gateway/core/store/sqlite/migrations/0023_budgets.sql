-- What a key or an account may spend in a window of time, and what was spent of each window.
CREATE TABLE budgets (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    holder TEXT NOT NULL, -- the id of the key or the account
    amount_nano INTEGER NOT NULL CHECK (amount_nano > 0),
    window TEXT NOT NULL,
    made_at_ms INTEGER NOT NULL,
    ended_at_ms INTEGER
) STRICT; -- listed by their rowid, as they were made

CREATE INDEX budgets_open ON budgets (account_id) WHERE ended_at_ms IS NULL;

CREATE TABLE budget_windows (
    budget_id TEXT NOT NULL REFERENCES budgets (id),
    starts_at_ms INTEGER NOT NULL,
    spent_nano INTEGER NOT NULL CHECK (spent_nano >= 0),
    PRIMARY KEY (budget_id, starts_at_ms)
) STRICT, WITHOUT ROWID;

-- Accounts without a row are in UTC.
CREATE TABLE account_zones (account_id TEXT PRIMARY KEY REFERENCES accounts (id), zone TEXT NOT NULL) STRICT, WITHOUT ROWID;
