-- Who was asked for an answer and failed before its first token, so that the next was asked or the request failed.
CREATE TABLE failed_attempts (
    account_id TEXT NOT NULL,
    id TEXT NOT NULL,
    number INTEGER NOT NULL,
    backend TEXT NOT NULL,
    code TEXT NOT NULL,
    PRIMARY KEY (account_id, id, number)
) STRICT, WITHOUT ROWID;
