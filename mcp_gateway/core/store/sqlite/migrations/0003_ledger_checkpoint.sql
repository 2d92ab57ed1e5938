-- What each wallet was when the ledger was last found right, so that a start compares only what came since.

CREATE TABLE ledger_checkpoint (
    account_id TEXT PRIMARY KEY REFERENCES accounts (id),
    paid_nano INTEGER NOT NULL,
    granted_nano INTEGER NOT NULL,
    held_nano INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE ledger_checkpoint_position (transaction_id INTEGER NOT NULL) STRICT;
INSERT INTO ledger_checkpoint_position VALUES (0);
