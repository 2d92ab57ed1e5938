-- Requests that a limit refused before they were admitted: the first of a credential, reason and minute has a record, and
-- here stands how many like it followed. What has a row here counts in the sums of requests, and not as admitted.
CREATE TABLE refused_requests (
    account_id TEXT NOT NULL,
    id TEXT NOT NULL,
    further INTEGER NOT NULL,
    PRIMARY KEY (account_id, id)
) STRICT, WITHOUT ROWID;

DROP TRIGGER notes_go_with_their_requests;

CREATE TRIGGER notes_go_with_their_requests AFTER DELETE ON request_rows BEGIN
DELETE FROM request_counts WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
DELETE FROM routed_requests WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
DELETE FROM failed_attempts WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
DELETE FROM missing_usages WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
DELETE FROM request_repeats WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
DELETE FROM refused_requests WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
END;
