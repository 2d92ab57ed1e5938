-- Amounts are integers in nano-USD, times integers in milliseconds since the epoch.

CREATE TABLE accounts (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    deactivated_at_ms INTEGER
) STRICT;

-- A limit is NULL (the configuration's default), -1 (unlimited) or the number itself.
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    sha256 BLOB NOT NULL UNIQUE CHECK (length(sha256) = 32),
    prefix TEXT NOT NULL,
    name TEXT NOT NULL,
    is_test INTEGER NOT NULL CHECK (is_test IN (0, 1)),
    requests_per_minute INTEGER CHECK (requests_per_minute >= -1),
    requests_per_day INTEGER CHECK (requests_per_day >= -1),
    tokens_per_minute INTEGER CHECK (tokens_per_minute >= -1),
    in_flight INTEGER CHECK (in_flight >= -1),
    created_at_ms INTEGER NOT NULL,
    revoked_at_ms INTEGER
) STRICT;

CREATE INDEX keys_by_account ON keys (account_id);

-- Raised with every change that a server must notice; PRAGMA data_version would move with every ledger commit.
CREATE TABLE identity_epoch (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    value INTEGER NOT NULL
) STRICT;

INSERT INTO identity_epoch VALUES (1, 0);

CREATE TRIGGER key_inserted AFTER INSERT ON keys
BEGIN UPDATE identity_epoch SET value = value + 1; END;

CREATE TRIGGER key_updated AFTER UPDATE ON keys
BEGIN UPDATE identity_epoch SET value = value + 1; END;

CREATE TRIGGER key_deleted AFTER DELETE ON keys
BEGIN UPDATE identity_epoch SET value = value + 1; END;

CREATE TRIGGER account_updated AFTER UPDATE ON accounts
BEGIN UPDATE identity_epoch SET value = value + 1; END;

-- One row is one transaction: what it adds to each of six books, summing to zero. `paid` and `granted` can be spent, `held`
-- is promised to a running request, `revenue` is earned, `grants_source` and `clearing` are where credit comes from.
-- A reference opens at most one transaction, and a hold is ended by at most one (settle or void, which names it).
CREATE TABLE ledger_transactions (
    id INTEGER PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    kind TEXT NOT NULL CHECK (kind IN ('credit', 'grant', 'hold', 'settle', 'void', 'expire', 'refund', 'dispute')),
    reference TEXT NOT NULL,
    hold_id INTEGER REFERENCES ledger_transactions (id),
    paid_nano INTEGER NOT NULL DEFAULT 0,
    granted_nano INTEGER NOT NULL DEFAULT 0,
    held_nano INTEGER NOT NULL DEFAULT 0,
    revenue_nano INTEGER NOT NULL DEFAULT 0,
    grants_source_nano INTEGER NOT NULL DEFAULT 0,
    clearing_nano INTEGER NOT NULL DEFAULT 0,
    created_at_ms INTEGER NOT NULL,
    CHECK (paid_nano + granted_nano + held_nano + revenue_nano + grants_source_nano + clearing_nano = 0),
    CHECK ((kind IN ('settle', 'void')) = (hold_id IS NOT NULL))
) STRICT;

CREATE UNIQUE INDEX ledger_opens_once ON ledger_transactions (reference) WHERE hold_id IS NULL;
CREATE UNIQUE INDEX ledger_ends_once ON ledger_transactions (hold_id) WHERE hold_id IS NOT NULL;
CREATE INDEX ledger_by_account ON ledger_transactions (account_id);

CREATE TRIGGER ledger_keeps_facts BEFORE UPDATE ON ledger_transactions
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER ledger_keeps_rows BEFORE DELETE ON ledger_transactions
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

-- Caches, kept by triggers and proved by the ledger's check: the balances, and the holds that nothing has ended yet.
CREATE TABLE wallets (
    account_id TEXT PRIMARY KEY REFERENCES accounts (id),
    paid_nano INTEGER NOT NULL DEFAULT 0,
    granted_nano INTEGER NOT NULL DEFAULT 0 CHECK (granted_nano >= 0),
    held_nano INTEGER NOT NULL DEFAULT 0 CHECK (held_nano >= 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE open_holds (
    id INTEGER PRIMARY KEY REFERENCES ledger_transactions (id)
) STRICT;

CREATE TRIGGER account_gets_a_wallet AFTER INSERT ON accounts
BEGIN INSERT INTO wallets (account_id) VALUES (NEW.id); END;

CREATE TRIGGER ledger_moves_the_wallet AFTER INSERT ON ledger_transactions
BEGIN
    UPDATE wallets SET
        paid_nano = paid_nano + NEW.paid_nano,
        granted_nano = granted_nano + NEW.granted_nano,
        held_nano = held_nano + NEW.held_nano
    WHERE account_id = NEW.account_id;
END;

CREATE TRIGGER ledger_opens_a_hold AFTER INSERT ON ledger_transactions WHEN NEW.kind = 'hold'
BEGIN INSERT INTO open_holds (id) VALUES (NEW.id); END;

CREATE TRIGGER ledger_ends_a_hold AFTER INSERT ON ledger_transactions WHEN NEW.hold_id IS NOT NULL
BEGIN DELETE FROM open_holds WHERE id = NEW.hold_id; END;

-- A grant is a 'grant' transaction with what is left of it; its entries say which transaction moved how much of it.
CREATE TABLE grants (
    id INTEGER PRIMARY KEY REFERENCES ledger_transactions (id),
    account_id TEXT NOT NULL REFERENCES accounts (id),
    expires_at_ms INTEGER,
    available_nano INTEGER NOT NULL DEFAULT 0 CHECK (available_nano >= 0),
    held_nano INTEGER NOT NULL DEFAULT 0 CHECK (held_nano >= 0)
) STRICT;

CREATE INDEX grants_spendable ON grants (account_id) WHERE available_nano > 0;

CREATE TABLE grant_entries (
    transaction_id INTEGER NOT NULL REFERENCES ledger_transactions (id),
    grant_id INTEGER NOT NULL REFERENCES grants (id),
    available_nano INTEGER NOT NULL,
    held_nano INTEGER NOT NULL,
    PRIMARY KEY (transaction_id, grant_id)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER grant_entries_keep_facts BEFORE UPDATE ON grant_entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER grant_entries_keep_rows BEFORE DELETE ON grant_entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER grant_entries_move_the_grant AFTER INSERT ON grant_entries
BEGIN
    UPDATE grants SET
        available_nano = available_nano + NEW.available_nano,
        held_nano = held_nano + NEW.held_nano
    WHERE id = NEW.grant_id;
END;

-- The ledger as people read one: an entry a line.
CREATE VIEW ledger_entries (transaction_id, account_id, kind, reference, book, amount_nano, created_at_ms) AS
SELECT id, account_id, kind, reference, 'paid', paid_nano, created_at_ms
FROM ledger_transactions WHERE paid_nano <> 0
UNION ALL SELECT id, account_id, kind, reference, 'granted', granted_nano, created_at_ms
FROM ledger_transactions WHERE granted_nano <> 0
UNION ALL SELECT id, account_id, kind, reference, 'held', held_nano, created_at_ms
FROM ledger_transactions WHERE held_nano <> 0
UNION ALL SELECT id, account_id, kind, reference, 'revenue', revenue_nano, created_at_ms
FROM ledger_transactions WHERE revenue_nano <> 0
UNION ALL SELECT id, account_id, kind, reference, 'grants_source', grants_source_nano, created_at_ms
FROM ledger_transactions WHERE grants_source_nano <> 0
UNION ALL SELECT id, account_id, kind, reference, 'clearing', clearing_nano, created_at_ms
FROM ledger_transactions WHERE clearing_nano <> 0;

-- Metadata of requests, never content. No foreign keys: a record outlives what it names.
CREATE TABLE requests (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    client_request_id TEXT,
    account_id TEXT NOT NULL,
    key_id TEXT,
    door TEXT NOT NULL,
    model TEXT NOT NULL,
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
) STRICT;

CREATE INDEX requests_by_account ON requests (account_id);
CREATE INDEX requests_by_time ON requests (started_at_ms, key_id);

INSERT INTO accounts (id, name, created_at_ms) VALUES ('acc_guest', 'Guests', 0);
