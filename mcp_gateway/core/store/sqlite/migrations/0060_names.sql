-- Writes anew: requests
-- What stands in the log of requests again and again (accounts, keys, models, backends, versions of prices) is written once,
-- and a request's row has its number: it takes half. `requests` is a view of these rows in the words as before.
CREATE TABLE names (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE request_rows (
    account_number INTEGER NOT NULL, -- this and the other numbers are those of names
    id TEXT NOT NULL,
    client_request_id TEXT,
    key_number INTEGER,
    door TEXT NOT NULL,
    model_number INTEGER,
    backend_number INTEGER,
    is_stream INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER,
    cost_nano INTEGER NOT NULL,
    price_number INTEGER,
    started_at_ms INTEGER NOT NULL,
    latency_ms INTEGER NOT NULL,
    first_token_ms INTEGER,
    http_status INTEGER NOT NULL,
    error_code TEXT,
    finish_reason TEXT,
    PRIMARY KEY (account_number, id)
) STRICT, WITHOUT ROWID;

-- Accounts first and in their order, so that the rows below come in the order of their table.
INSERT INTO names (name) SELECT DISTINCT account_id FROM requests ORDER BY account_id;

INSERT INTO names (name)
WITH told AS MATERIALIZED (SELECT DISTINCT key_id, model, backend, price_version FROM requests)
SELECT key_id FROM told WHERE key_id IS NOT NULL
UNION SELECT model FROM told WHERE model IS NOT NULL
UNION SELECT backend FROM told WHERE backend IS NOT NULL
UNION SELECT price_version FROM told WHERE price_version IS NOT NULL
EXCEPT SELECT name FROM names;

INSERT INTO request_rows
SELECT
    (SELECT number FROM names WHERE name = account_id), id, client_request_id,
    (SELECT number FROM names WHERE name = key_id), door, (SELECT number FROM names WHERE name = model),
    (SELECT number FROM names WHERE name = backend), is_stream, prompt_tokens, completion_tokens, cached_tokens, cost_nano,
    (SELECT number FROM names WHERE name = price_version), started_at_ms, latency_ms, first_token_ms, http_status,
    error_code, finish_reason
FROM requests;

DROP TABLE requests;

-- Of an account by its name, whose rows stand together; a name is looked up for what is asked of a request alone.
CREATE VIEW requests AS
SELECT
    requests.id AS id,
    client_request_id,
    account.name AS account_id,
    (SELECT name FROM names WHERE number = key_number) AS key_id,
    door,
    (SELECT name FROM names WHERE number = model_number) AS model,
    (SELECT name FROM names WHERE number = backend_number) AS backend,
    is_stream,
    prompt_tokens,
    completion_tokens,
    cached_tokens,
    cost_nano,
    (SELECT name FROM names WHERE number = price_number) AS price_version,
    started_at_ms,
    latency_ms,
    first_token_ms,
    http_status,
    error_code,
    finish_reason
FROM names AS account JOIN request_rows AS requests ON requests.account_number = account.number;

-- An operator may delete requests by their view.
CREATE TRIGGER requests_are_deleted INSTEAD OF DELETE ON requests BEGIN
DELETE FROM request_rows WHERE account_number = (SELECT number FROM names WHERE name = OLD.account_id) AND id = OLD.id;
END;

-- Rows have nothing else to tell what they are of.
CREATE TRIGGER names_are_kept BEFORE DELETE ON names
BEGIN SELECT RAISE(ABORT, 'names are kept'); END;

CREATE TRIGGER names_stay BEFORE UPDATE ON names
BEGIN SELECT RAISE(ABORT, 'names stay as they are'); END;

-- The triggers of requests, as they were made by 0014, 0016, 0017, 0034, 0036, 0038 and 0048, on the table that they are in.
CREATE TRIGGER requests_are_summed AFTER INSERT ON request_rows BEGIN
INSERT INTO hourly_usage
SELECT
    account.name, NEW.started_at_ms / 3600000, COALESCE(key.name, ''), COALESCE(model.name, ''), 1,
    CASE WHEN NEW.prompt_tokens < 0 THEN 0 WHEN NEW.prompt_tokens > 4294967296 THEN 4294967296 ELSE NEW.prompt_tokens END,
    CASE WHEN NEW.completion_tokens < 0 THEN 0 WHEN NEW.completion_tokens > 4294967296 THEN 4294967296 ELSE NEW.completion_tokens END,
    CASE WHEN NEW.cached_tokens > 4294967296 THEN 4294967296 WHEN NEW.cached_tokens > 0 THEN NEW.cached_tokens ELSE 0 END,
    CASE WHEN NEW.cost_nano < 0 THEN 0 WHEN NEW.cost_nano > 1000000000000000 THEN 1000000000000000 ELSE NEW.cost_nano END
FROM names AS account
LEFT JOIN names AS key ON key.number = NEW.key_number LEFT JOIN names AS model ON model.number = NEW.model_number
WHERE account.number = NEW.account_number
ON CONFLICT DO UPDATE SET
    requests = requests + 1,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens,
    cost_nano = cost_nano + excluded.cost_nano;
END;

CREATE TRIGGER corrected_costs_are_summed AFTER UPDATE OF cost_nano ON request_rows
WHEN NEW.cost_nano <> OLD.cost_nano BEGIN
UPDATE hourly_usage
SET cost_nano = cost_nano
    + MAX(0, MIN(NEW.cost_nano, 1000000000000000)) - MAX(0, MIN(OLD.cost_nano, 1000000000000000))
WHERE account_id = (SELECT name FROM names WHERE number = NEW.account_number) AND hour = NEW.started_at_ms / 3600000
    AND key_id = COALESCE((SELECT name FROM names WHERE number = NEW.key_number), '')
    AND model = COALESCE((SELECT name FROM names WHERE number = NEW.model_number), '');
END;

-- Those that were not answered with 200; what is inserted here is a part of the sums. By a trigger of its own, as in 0016.
CREATE VIEW failed_requests AS SELECT account_number, id FROM request_rows WHERE http_status <> 200;

CREATE TRIGGER failed_requests_join_their_parts INSTEAD OF INSERT ON failed_requests BEGIN
INSERT INTO request_parts (account_id, id, surface, requests)
VALUES ((SELECT name FROM names WHERE number = NEW.account_number), NEW.id, '', 1);
END;

CREATE TRIGGER failures_are_summed AFTER INSERT ON request_rows WHEN NEW.http_status <> 200 BEGIN
INSERT INTO failed_requests VALUES (NEW.account_number, NEW.id);
END;

CREATE TRIGGER corrected_requests_leave_their_parts BEFORE UPDATE OF http_status, cost_nano ON request_rows
WHEN NEW.http_status <> OLD.http_status OR NEW.cost_nano <> OLD.cost_nano BEGIN
INSERT INTO request_parts (account_id, id, surface, requests)
SELECT account_id, id, surface, -1 FROM request_parts
WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
END;

CREATE TRIGGER corrected_requests_join_their_parts AFTER UPDATE OF http_status, cost_nano ON request_rows
WHEN NEW.http_status <> OLD.http_status OR NEW.cost_nano <> OLD.cost_nano BEGIN
INSERT INTO request_parts (account_id, id, surface, requests)
SELECT account_id, id, surface, 1 FROM request_parts
WHERE account_id = (SELECT name FROM names WHERE number = NEW.account_number) AND id = NEW.id;
END;

CREATE TRIGGER corrected_requests_leave_their_tasks BEFORE UPDATE OF http_status, cost_nano ON request_rows
WHEN NEW.http_status <> OLD.http_status OR NEW.cost_nano <> OLD.cost_nano BEGIN
INSERT INTO request_tasks (account_id, id, task, requests)
SELECT account_id, id, task, -1 FROM routed_requests
WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
END;

CREATE TRIGGER corrected_requests_join_their_tasks AFTER UPDATE OF http_status, cost_nano ON request_rows
WHEN NEW.http_status <> OLD.http_status OR NEW.cost_nano <> OLD.cost_nano BEGIN
INSERT INTO request_tasks (account_id, id, task, requests)
SELECT account_id, id, task, 1 FROM routed_requests
WHERE account_id = (SELECT name FROM names WHERE number = NEW.account_number) AND id = NEW.id;
END;

CREATE TRIGGER corrected_requests_leave_their_attributions BEFORE UPDATE OF http_status, cost_nano ON request_rows
WHEN NEW.http_status <> OLD.http_status OR NEW.cost_nano <> OLD.cost_nano BEGIN
INSERT INTO request_attributions (account_id, id, requests)
SELECT account_id, id, -1 FROM attributed_requests
WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
END;

CREATE TRIGGER corrected_requests_join_their_attributions AFTER UPDATE OF http_status, cost_nano ON request_rows
WHEN NEW.http_status <> OLD.http_status OR NEW.cost_nano <> OLD.cost_nano BEGIN
INSERT INTO request_attributions (account_id, id, requests)
SELECT account_id, id, 1 FROM attributed_requests
WHERE account_id = (SELECT name FROM names WHERE number = NEW.account_number) AND id = NEW.id;
END;

-- Before, since what they have been summed up as is told by their requests.
CREATE TRIGGER attributions_go_with_their_requests BEFORE DELETE ON request_rows BEGIN
DELETE FROM attributed_requests
WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
END;

CREATE TRIGGER notes_go_with_their_requests AFTER DELETE ON request_rows BEGIN
DELETE FROM request_surfaces WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
DELETE FROM request_counts WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
DELETE FROM routed_requests WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
DELETE FROM failed_attempts WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
DELETE FROM missing_usages WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
DELETE FROM request_repeats WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
END;
