-- Amounts are integers in nano-USD, times integers in milliseconds since the Unix epoch.

CREATE TABLE accounts (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    is_active INTEGER NOT NULL DEFAULT 1 CHECK (is_active IN (0, 1))
) STRICT;

-- A limit is NULL (the configuration's default), -1 (none) or the number itself.
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    sha256 BLOB NOT NULL UNIQUE CHECK (length(sha256) = 32),
    prefix TEXT NOT NULL,
    name TEXT NOT NULL,
    is_test INTEGER NOT NULL CHECK (is_test IN (0, 1)),
    created_at_ms INTEGER NOT NULL,
    revoked_at_ms INTEGER,
    requests_per_minute INTEGER CHECK (requests_per_minute >= -1),
    requests_per_day INTEGER CHECK (requests_per_day >= -1),
    tokens_per_minute INTEGER CHECK (tokens_per_minute >= -1),
    in_flight INTEGER CHECK (in_flight >= -1)
) STRICT;

CREATE INDEX keys_of_account ON keys (account_id);

-- One row. Every change of a key or account raises it; PRAGMA data_version would move with each ledger commit.
CREATE TABLE identity_epoch (value INTEGER NOT NULL) STRICT;
INSERT INTO identity_epoch VALUES (0);

-- One row is one transaction: what it adds to each of six books, which sum to zero. `paid` and `granted` can be spent,
-- `held` is set aside for a request, `revenue` is earned, `grant_source` and `clearing` are where credit comes from.
CREATE TABLE ledger_transactions (
    id INTEGER PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    kind TEXT NOT NULL CHECK (kind IN ('credit', 'grant', 'hold', 'settle', 'void', 'expire', 'refund', 'dispute')),
    reference TEXT NOT NULL,
    paid_nano INTEGER NOT NULL,
    granted_nano INTEGER NOT NULL,
    held_nano INTEGER NOT NULL,
    revenue_nano INTEGER NOT NULL,
    grant_source_nano INTEGER NOT NULL,
    clearing_nano INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    CHECK (paid_nano + granted_nano + held_nano + revenue_nano + grant_source_nano + clearing_nano = 0)
) STRICT;

CREATE UNIQUE INDEX a_hold_opens_once ON ledger_transactions (reference) WHERE kind = 'hold';
CREATE UNIQUE INDEX a_hold_ends_once ON ledger_transactions (reference) WHERE kind IN ('settle', 'void');
CREATE UNIQUE INDEX credit_applies_once ON ledger_transactions (kind, reference) WHERE kind IN ('credit', 'grant');
CREATE INDEX ledger_of_account ON ledger_transactions (account_id);

CREATE TRIGGER ledger_facts_stay BEFORE UPDATE ON ledger_transactions
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER ledger_rows_stay BEFORE DELETE ON ledger_transactions
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

-- What follows from the transactions; the ledger's check compares the two.
CREATE TABLE wallets (
    account_id TEXT PRIMARY KEY REFERENCES accounts (id),
    paid_nano INTEGER NOT NULL,
    granted_nano INTEGER NOT NULL CHECK (granted_nano >= 0),
    held_nano INTEGER NOT NULL CHECK (held_nano >= 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE holds (
    request_id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    paid_nano INTEGER NOT NULL CHECK (paid_nano >= 0),
    granted_nano INTEGER NOT NULL CHECK (granted_nano >= 0),
    created_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE grants (
    id INTEGER PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    remaining_nano INTEGER NOT NULL CHECK (remaining_nano >= 0),
    expires_at_ms INTEGER,
    created_at_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX grants_left ON grants (account_id) WHERE remaining_nano > 0;

CREATE TABLE hold_grants (
    request_id TEXT NOT NULL,
    grant_id INTEGER NOT NULL REFERENCES grants (id),
    amount_nano INTEGER NOT NULL CHECK (amount_nano > 0),
    PRIMARY KEY (request_id, grant_id)
) STRICT, WITHOUT ROWID;

-- Metadata of requests, never content. It names accounts and keys without referring to them: a record outlives both.
CREATE TABLE requests (
    id TEXT PRIMARY KEY,
    client_request_id TEXT,
    account_id TEXT NOT NULL,
    key_id TEXT,
    door TEXT NOT NULL,
    model TEXT,
    backend TEXT,
    is_stream INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER,
    cost_nano INTEGER NOT NULL,
    price_version TEXT,
    started_at_ms INTEGER NOT NULL,
    latency_ms INTEGER NOT NULL,
    first_token_ms INTEGER,
    http_status INTEGER NOT NULL,
    error_code TEXT,
    finish_reason TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX requests_of_account ON requests (account_id);

INSERT INTO accounts (id, name, created_at_ms) VALUES ('acc_guest', 'Guests', 0);
