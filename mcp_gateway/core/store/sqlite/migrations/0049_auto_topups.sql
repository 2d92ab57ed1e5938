-- By what an account's people paid as they let it be charged again: Stripe's names of it, and no more.
CREATE TABLE saved_payment_methods (
    account_id TEXT PRIMARY KEY REFERENCES accounts (id),
    customer_id TEXT NOT NULL,
    method_id TEXT NOT NULL,
    saved_at_s INTEGER NOT NULL -- when the payment was begun, by Stripe's clock: the last one counts
) STRICT, WITHOUT ROWID;

CREATE INDEX saved_payment_methods_by_id ON saved_payment_methods (method_id);

-- Which accounts are to be topped up by themselves: below which balance, by how much, and how much of a UTC day.
CREATE TABLE auto_topups (
    account_id TEXT PRIMARY KEY REFERENCES accounts (id),
    threshold_nano INTEGER NOT NULL CHECK (threshold_nano > 0),
    amount_nano INTEGER NOT NULL CHECK (amount_nano > 0),
    most_per_day_nano INTEGER NOT NULL CHECK (most_per_day_nano >= amount_nano),
    off_reason TEXT, -- NULL while it is on
    off_at_ms INTEGER
) STRICT, WITHOUT ROWID;

-- Payments that a low balance began, in the transaction that made it low; the id is the key by which Stripe makes one of
-- them however often it is asked for. What is asked for is decided and written before Stripe hears of it.
CREATE TABLE auto_payments (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    state TEXT NOT NULL CHECK (state IN ('due', 'asked', 'paid', 'failed')),
    tries INTEGER NOT NULL,
    due_at_ms INTEGER NOT NULL,
    asked_at_ms INTEGER, -- and all that follows: NULL until then
    amount_nano INTEGER,
    customer_id TEXT,
    method_id TEXT
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX auto_payments_open ON auto_payments (account_id) WHERE state IN ('due', 'asked');
CREATE INDEX auto_payments_due ON auto_payments (due_at_ms) WHERE state IN ('due', 'asked');
CREATE INDEX auto_payments_asked ON auto_payments (account_id, asked_at_ms);
