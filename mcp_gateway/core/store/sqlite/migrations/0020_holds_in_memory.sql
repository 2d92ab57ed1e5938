-- What a request holds is known in memory: it dies with the process, and so leaves nothing to void. Holds that an
-- earlier release left open are given back here, as its next start would have done.
INSERT INTO ledger_transactions
    (account_id, kind, reference, paid_nano, granted_nano, held_nano, revenue_nano, grant_source_nano, clearing_nano,
     created_at_ms)
SELECT account_id, 'void', request_id, paid_nano, granted_nano, -paid_nano - granted_nano, 0, 0, 0,
    CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
FROM holds;

UPDATE grants SET remaining_nano = remaining_nano + (SELECT SUM(amount_nano) FROM hold_grants WHERE grant_id = grants.id)
WHERE id IN (SELECT grant_id FROM hold_grants);

UPDATE wallets SET
    paid_nano = paid_nano + (SELECT SUM(paid_nano) FROM holds AS h WHERE h.account_id = wallets.account_id),
    granted_nano = granted_nano + (SELECT SUM(granted_nano) FROM holds AS h WHERE h.account_id = wallets.account_id)
WHERE account_id IN (SELECT account_id FROM holds);

UPDATE wallets SET held_nano = 0 WHERE held_nano <> 0;

-- The table of holds, and the column of wallets, stay as they are with nothing in them: operators' queries name them.
DELETE FROM holds;
DROP TABLE hold_grants;
ALTER TABLE ledger_checkpoint DROP COLUMN held_nano;

-- A settlement that such a release left in a file beside the database comes after the void of its hold.
DROP INDEX a_hold_ends_once;
CREATE UNIQUE INDEX a_request_is_settled_once ON ledger_transactions (reference) WHERE kind = 'settle';
