-- What an operator corrects by hand, and the notes of entries that he made. The new kind goes into the CHECK where it
-- stands, at its end: see 0008.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, 'OR kind = ''refund_of_request''', 'OR kind = ''refund_of_request'' OR kind = ''adjustment''')
WHERE type = 'table' AND name = 'ledger_transactions';
PRAGMA writable_schema = RESET;

DROP INDEX outside_money_applies_once;
CREATE UNIQUE INDEX outside_money_applies_once ON ledger_transactions (kind, reference)
WHERE kind = 'credit' OR kind = 'grant' OR kind = 'refund' OR kind = 'dispute' OR kind = 'adjustment';

CREATE TABLE transaction_notes (
    transaction_id INTEGER PRIMARY KEY REFERENCES ledger_transactions (id),
    note TEXT NOT NULL
) STRICT;
