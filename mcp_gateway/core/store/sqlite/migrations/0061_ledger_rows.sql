-- Writes anew: ledger_transactions
-- As the log of requests (0060): an entry of the ledger has the number of its account, whose index is a fifth so large.
-- `ledger_transactions` is a view of the entries in the words as before.
CREATE TABLE ledger_rows (
    id INTEGER PRIMARY KEY,
    account_number INTEGER NOT NULL REFERENCES names (number),
    kind TEXT NOT NULL CHECK (
        kind = 'hold' OR kind = 'settle' OR kind = 'void' OR kind = 'credit' OR kind = 'grant' OR kind = 'expire' OR kind = 'refund'
        OR kind = 'dispute' OR kind = 'refund_of_request' OR kind = 'adjustment'
    ),
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

INSERT INTO names (name) SELECT DISTINCT account_id FROM ledger_transactions EXCEPT SELECT name FROM names;

INSERT INTO ledger_rows
SELECT
    id, (SELECT number FROM names WHERE name = account_id), kind, reference, paid_nano, granted_nano, held_nano, revenue_nano,
    grant_source_nano, clearing_nano, created_at_ms
FROM ledger_transactions ORDER BY id;

-- Notes refer to entries.
CREATE TEMP TABLE kept_notes AS SELECT transaction_id, note FROM transaction_notes;
DROP TABLE transaction_notes;
DROP TABLE ledger_transactions;
CREATE TABLE transaction_notes (
    transaction_id INTEGER PRIMARY KEY REFERENCES ledger_rows (id),
    note TEXT NOT NULL
) STRICT;
INSERT INTO transaction_notes SELECT transaction_id, note FROM kept_notes;
DROP TABLE kept_notes;

CREATE UNIQUE INDEX a_hold_opens_once ON ledger_rows (reference) WHERE kind = 'hold';
CREATE UNIQUE INDEX a_request_is_settled_once ON ledger_rows (reference) WHERE kind = 'settle';
CREATE UNIQUE INDEX a_request_is_given_back_once ON ledger_rows (reference) WHERE kind = 'refund_of_request';
CREATE UNIQUE INDEX outside_money_applies_once ON ledger_rows (kind, reference)
WHERE kind = 'credit' OR kind = 'grant' OR kind = 'refund' OR kind = 'dispute' OR kind = 'adjustment';
CREATE INDEX ledger_of_account ON ledger_rows (account_number);

CREATE VIEW ledger_transactions AS
SELECT
    entry.id AS id, account.name AS account_id, kind, reference, paid_nano, granted_nano, held_nano, revenue_nano,
    grant_source_nano, clearing_nano, created_at_ms
FROM ledger_rows AS entry JOIN names AS account ON account.number = entry.account_number;

-- The ledger is append-only, by its view as well; settlements of archived months may go: see 0057.
CREATE TRIGGER ledger_facts_stay BEFORE UPDATE ON ledger_rows
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER ledger_rows_stay BEFORE DELETE ON ledger_rows
WHEN OLD.kind <> 'settle' OR OLD.held_nano <> 0
    OR OLD.id > COALESCE((SELECT MAX(last_id) FROM closed_months WHERE is_archived = 1), 0)
    OR OLD.id = (SELECT MAX(id) FROM ledger_rows)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER entries_are_not_changed INSTEAD OF UPDATE ON ledger_transactions
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER entries_are_deleted INSTEAD OF DELETE ON ledger_transactions BEGIN
DELETE FROM ledger_rows WHERE id = OLD.id;
END;

-- Of an account that there is: what has none has no number.
CREATE TRIGGER entries_are_added INSTEAD OF INSERT ON ledger_transactions BEGIN
INSERT INTO names (name) SELECT id FROM accounts WHERE id = NEW.account_id ON CONFLICT DO NOTHING;
INSERT INTO ledger_rows VALUES (
    NEW.id, (SELECT number FROM names WHERE name = NEW.account_id), NEW.kind, NEW.reference, NEW.paid_nano, NEW.granted_nano,
    NEW.held_nano, NEW.revenue_nano, NEW.grant_source_nano, NEW.clearing_nano, NEW.created_at_ms
);
END;
