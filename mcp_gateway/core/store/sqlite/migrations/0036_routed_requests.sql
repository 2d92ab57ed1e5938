-- Requests that named no model: what was read of each, and how good its caller has found the answer since.
CREATE TABLE routed_requests (
    account_id TEXT NOT NULL,
    id TEXT NOT NULL,
    task TEXT NOT NULL,
    complexity TEXT NOT NULL,
    confidence REAL NOT NULL,
    score INTEGER CHECK (score BETWEEN 0 AND 1000000), -- in millionths; NULL until it is scored
    PRIMARY KEY (account_id, id)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER routings_go_with_their_requests AFTER DELETE ON requests BEGIN
DELETE FROM routed_requests WHERE account_id = OLD.account_id AND id = OLD.id;
END;
