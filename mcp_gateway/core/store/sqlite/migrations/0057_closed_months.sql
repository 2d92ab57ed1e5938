-- What the entries of a month that is over come to, by account, kind and model: whoever adds up the ledger begins after the
-- last of them, and those of settled requests may be taken out into a file. Sums of a month count once it is closed.
CREATE TABLE closed_months (
    month TEXT PRIMARY KEY, -- as in 2026-01, by UTC
    last_id INTEGER NOT NULL, -- its entries, and those of the months before, have at most this id, and no others
    closed_at_ms INTEGER NOT NULL,
    is_archived INTEGER NOT NULL DEFAULT 0 CHECK (is_archived IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE TABLE month_sums (
    account_id TEXT NOT NULL REFERENCES accounts (id),
    month TEXT NOT NULL,
    kind TEXT NOT NULL,
    model TEXT NOT NULL, -- '' for none
    entries INTEGER NOT NULL,
    paid_nano INTEGER NOT NULL,
    granted_nano INTEGER NOT NULL,
    held_nano INTEGER NOT NULL,
    revenue_nano INTEGER NOT NULL,
    grant_source_nano INTEGER NOT NULL,
    clearing_nano INTEGER NOT NULL,
    charged_grants_nano INTEGER NOT NULL, -- what of the revenue nobody had paid for
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    PRIMARY KEY (account_id, month, kind, model),
    CHECK (paid_nano + granted_nano + held_nano + revenue_nano + grant_source_nano + clearing_nano = 0)
) STRICT, WITHOUT ROWID;

CREATE INDEX month_sums_by_month ON month_sums (month);

CREATE TRIGGER closed_sums_stay BEFORE UPDATE ON month_sums
BEGIN SELECT RAISE(ABORT, 'sums of months are not changed'); END;

CREATE TRIGGER closed_sums_are_kept BEFORE DELETE ON month_sums
WHEN EXISTS (SELECT 1 FROM closed_months WHERE month = OLD.month)
BEGIN SELECT RAISE(ABORT, 'sums of closed months are kept'); END;

CREATE TRIGGER months_stay_closed BEFORE DELETE ON closed_months
BEGIN SELECT RAISE(ABORT, 'a month stays closed'); END;

-- Settlements of months that are archived may go, but for the very last entry, after whose id the next is numbered, and for
-- what was given back since. Everything else is append-only as before.
DROP TRIGGER ledger_rows_stay;
CREATE TRIGGER ledger_rows_stay BEFORE DELETE ON ledger_transactions
WHEN OLD.kind <> 'settle' OR OLD.held_nano <> 0
    OR OLD.id > COALESCE((SELECT MAX(last_id) FROM closed_months WHERE is_archived = 1), 0)
    OR OLD.id = (SELECT MAX(id) FROM ledger_transactions)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
