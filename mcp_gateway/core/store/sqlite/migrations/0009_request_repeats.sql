-- A request for inference that was sent again under an Idempotency-Key, and the first one that bore it.
CREATE TABLE request_repeats (
    account_id TEXT NOT NULL,
    id TEXT NOT NULL,
    first_id TEXT NOT NULL,
    PRIMARY KEY (account_id, id)
) STRICT, WITHOUT ROWID;
