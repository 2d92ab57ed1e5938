-- Refunds and disputes come from outside like credit does, and like credit they apply once.
DROP INDEX credit_applies_once;
CREATE UNIQUE INDEX outside_money_applies_once ON ledger_transactions (kind, reference)
WHERE kind IN ('credit', 'grant', 'refund', 'dispute');

CREATE TABLE stripe_customers (
    account_id TEXT PRIMARY KEY REFERENCES accounts (id),
    customer_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Events that were applied; Stripe sends each at least once.
CREATE TABLE stripe_events (
    id TEXT PRIMARY KEY,
    type TEXT NOT NULL,
    received_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A payment (Stripe's PaymentIntent) that was credited.
CREATE TABLE stripe_payments (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id)
) STRICT, WITHOUT ROWID;

-- What went back to a payer, perhaps known before the payment is. `amount_nano` is the most that was reported, and only
-- grows; `is_returned` is only ever set: the order of the events does not matter. `taken_nano` is what the wallet was
-- charged for it so far.
CREATE TABLE stripe_reversals (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('refund', 'dispute')),
    payment_id TEXT NOT NULL,
    amount_nano INTEGER NOT NULL CHECK (amount_nano >= 0),
    is_returned INTEGER NOT NULL CHECK (is_returned IN (0, 1)),
    taken_nano INTEGER NOT NULL DEFAULT 0 CHECK (taken_nano >= 0)
) STRICT, WITHOUT ROWID;

CREATE INDEX stripe_reversals_of_payment ON stripe_reversals (payment_id);

-- Answers to requests that carried an Idempotency-Key, without secrets; `body` is JSON.
CREATE TABLE idempotent_answers (
    account_id TEXT NOT NULL REFERENCES accounts (id),
    key_sha256 BLOB NOT NULL CHECK (length(key_sha256) = 32),
    request_sha256 BLOB NOT NULL CHECK (length(request_sha256) = 32),
    status INTEGER NOT NULL,
    body TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (account_id, key_sha256)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotent_answers_by_age ON idempotent_answers (created_at_ms);
