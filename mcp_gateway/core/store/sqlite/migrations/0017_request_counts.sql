-- What a request was billed by that few requests have: `requests` keeps its columns.
CREATE TABLE request_counts (
    account_id TEXT NOT NULL,
    id TEXT NOT NULL,
    cache_write_tokens INTEGER, -- a part of the prompt's
    images INTEGER NOT NULL,
    PRIMARY KEY (account_id, id)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER counts_go_with_their_requests AFTER DELETE ON requests BEGIN
DELETE FROM request_counts WHERE account_id = OLD.account_id AND id = OLD.id;
END;
