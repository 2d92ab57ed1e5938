-- Whoever asks for requests asks for an account's: kept in that order, one tree serves where there were a table and an
-- index, which every request had to be written to. Ids sort by time.
CREATE TABLE requests_by_account (
    id TEXT NOT NULL,
    client_request_id TEXT,
    account_id TEXT NOT NULL,
    key_id TEXT,
    door TEXT NOT NULL,
    model TEXT,
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
    finish_reason TEXT,
    PRIMARY KEY (account_id, id)
) STRICT, WITHOUT ROWID;

INSERT INTO requests_by_account SELECT * FROM requests;
DROP TABLE requests;
ALTER TABLE requests_by_account RENAME TO requests;
