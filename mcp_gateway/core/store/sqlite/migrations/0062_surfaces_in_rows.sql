-- In what a request was asked stands in its row, where it is not a chat: a row less for those, and a look-up less for all that
-- read them. Sums of parts are found by numbers.
ALTER TABLE request_rows ADD COLUMN surface TEXT; -- NULL for a chat

UPDATE request_rows SET surface = named.surface
FROM request_surfaces AS named JOIN names ON names.name = named.account_id
WHERE request_rows.account_number = names.number AND request_rows.id = named.id;

DROP TRIGGER failures_are_summed;
DROP TRIGGER corrected_requests_leave_their_parts;
DROP TRIGGER corrected_requests_join_their_parts;
DROP TRIGGER notes_go_with_their_requests;
DROP TRIGGER tasks_are_summed;
DROP TRIGGER attributions_are_summed;
DROP VIEW failed_requests;
DROP VIEW request_parts;
DROP VIEW requests;
DROP TABLE request_surfaces;

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
    finish_reason,
    COALESCE(requests.surface, 'chat') AS surface
FROM names AS account JOIN request_rows AS requests ON requests.account_number = account.number;

CREATE TRIGGER requests_are_deleted INSTEAD OF DELETE ON requests BEGIN
DELETE FROM request_rows WHERE account_number = (SELECT number FROM names WHERE name = OLD.account_id) AND id = OLD.id;
END;

-- What of each request is in a part of the sums, or in two, as in 0016; what is inserted here is summed up.
CREATE VIEW request_parts AS
SELECT account_number, id, surface, 1 AS requests FROM request_rows WHERE surface IS NOT NULL
UNION ALL SELECT account_number, id, '', 1 FROM request_rows WHERE http_status <> 200;

-- A request joins its part of a surface, or of any, by `requests` 1, and leaves it by -1.
CREATE TRIGGER parts_are_summed INSTEAD OF INSERT ON request_parts BEGIN
INSERT INTO hourly_parts
SELECT
    account.name, started_at_ms / 3600000, COALESCE(key.name, ''), COALESCE(model.name, ''), NEW.surface, http_status, NEW.requests,
    NEW.requests * MAX(0, MIN(prompt_tokens, 4294967296)), NEW.requests * MAX(0, MIN(completion_tokens, 4294967296)),
    NEW.requests * MAX(0, MIN(COALESCE(cached_tokens, 0), 4294967296)),
    NEW.requests * MAX(0, MIN(cost_nano, 1000000000000000))
FROM request_rows AS asked JOIN names AS account ON account.number = asked.account_number
LEFT JOIN names AS key ON key.number = key_number LEFT JOIN names AS model ON model.number = model_number
WHERE asked.account_number = NEW.account_number AND asked.id = NEW.id
ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens,
    cost_nano = cost_nano + excluded.cost_nano;
END;

-- A chat that was answered is in no part: of a view of its own, so that such a one clears no room for what it does not need.
CREATE VIEW requests_in_parts AS SELECT account_number, id, surface, http_status FROM request_rows;

CREATE TRIGGER failures_join_their_parts INSTEAD OF INSERT ON requests_in_parts WHEN NEW.http_status <> 200 BEGIN
INSERT INTO request_parts VALUES (NEW.account_number, NEW.id, '', 1);
END;

CREATE TRIGGER surfaces_join_their_parts INSTEAD OF INSERT ON requests_in_parts WHEN NEW.surface IS NOT NULL BEGIN
INSERT INTO request_parts VALUES (NEW.account_number, NEW.id, NEW.surface, 1);
END;

CREATE TRIGGER requests_join_their_parts AFTER INSERT ON request_rows
WHEN NEW.http_status <> 200 OR NEW.surface IS NOT NULL BEGIN
INSERT INTO requests_in_parts VALUES (NEW.account_number, NEW.id, NEW.surface, NEW.http_status);
END;

CREATE TRIGGER corrected_requests_leave_their_parts BEFORE UPDATE OF http_status, cost_nano ON request_rows
WHEN NEW.http_status <> OLD.http_status OR NEW.cost_nano <> OLD.cost_nano BEGIN
INSERT INTO request_parts
SELECT account_number, id, surface, -1 FROM request_parts WHERE account_number = OLD.account_number AND id = OLD.id;
END;

CREATE TRIGGER corrected_requests_join_their_parts AFTER UPDATE OF http_status, cost_nano ON request_rows
WHEN NEW.http_status <> OLD.http_status OR NEW.cost_nano <> OLD.cost_nano BEGIN
INSERT INTO request_parts
SELECT account_number, id, surface, 1 FROM request_parts WHERE account_number = NEW.account_number AND id = NEW.id;
END;

CREATE TRIGGER notes_go_with_their_requests AFTER DELETE ON request_rows BEGIN
DELETE FROM request_counts WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
DELETE FROM routed_requests WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
DELETE FROM failed_attempts WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
DELETE FROM missing_usages WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
DELETE FROM request_repeats WHERE account_id = (SELECT name FROM names WHERE number = OLD.account_number) AND id = OLD.id;
END;

-- As in 0038.
CREATE TRIGGER tasks_are_summed INSTEAD OF INSERT ON request_tasks BEGIN
INSERT INTO hourly_tasks
SELECT
    NEW.account_id, started_at_ms / 3600000, COALESCE(key.name, ''), COALESCE(model.name, ''), NEW.task,
    COALESCE(surface, 'chat'), http_status, NEW.requests,
    NEW.requests * MAX(0, MIN(prompt_tokens, 4294967296)), NEW.requests * MAX(0, MIN(completion_tokens, 4294967296)),
    NEW.requests * MAX(0, MIN(COALESCE(cached_tokens, 0), 4294967296)),
    NEW.requests * MAX(0, MIN(cost_nano, 1000000000000000))
FROM request_rows AS asked
LEFT JOIN names AS key ON key.number = key_number LEFT JOIN names AS model ON model.number = model_number
WHERE asked.account_number = (SELECT number FROM names WHERE name = NEW.account_id) AND asked.id = NEW.id
ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens,
    cost_nano = cost_nano + excluded.cost_nano;
END;

-- As in 0048.
CREATE TRIGGER attributions_are_summed INSTEAD OF INSERT ON request_attributions BEGIN
INSERT INTO hourly_attributed
SELECT
    attributed.account_id, started_at_ms / 3600000, COALESCE(key_id, ''), COALESCE(model, ''), end_user,
    one.value, one.key = 0,
    COALESCE((
        SELECT task FROM routed_requests AS routed
        WHERE routed.account_id = attributed.account_id AND routed.id = attributed.id
    ), ''),
    surface, http_status, NEW.requests,
    NEW.requests * MAX(0, MIN(prompt_tokens, 4294967296)), NEW.requests * MAX(0, MIN(completion_tokens, 4294967296)),
    NEW.requests * MAX(0, MIN(COALESCE(cached_tokens, 0), 4294967296)),
    NEW.requests * MAX(0, MIN(cost_nano, 1000000000000000))
FROM attributed_requests AS attributed
JOIN requests ON requests.account_id = attributed.account_id AND requests.id = attributed.id
JOIN json_each(IIF(tags = '[]', '[""]', tags)) AS one
WHERE attributed.account_id = NEW.account_id AND attributed.id = NEW.id
ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens,
    cost_nano = cost_nano + excluded.cost_nano;
END;

-- Names are kept and wallets refer to accounts: an entry need not ask for its name once more. Where it stands, as in 0008.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, ' REFERENCES names (number)', '') WHERE type = 'table' AND name = 'ledger_rows';
PRAGMA writable_schema = RESET;
