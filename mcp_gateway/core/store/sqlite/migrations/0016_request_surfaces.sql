-- In what a request was asked, where that is not chat: most rows are chats, and `requests` keeps its columns.
CREATE TABLE request_surfaces (
    account_id TEXT NOT NULL,
    id TEXT NOT NULL,
    surface TEXT NOT NULL,
    PRIMARY KEY (account_id, id)
) STRICT, WITHOUT ROWID;

-- The parts of `hourly_usage` that were not chats, and those that were not answered with 200, by the status that the caller
-- was told; kept and bounded as that is. What failed and was no chat is in both, so that neither waits for the other. A chat
-- that was answered, as most requests are, is what is left. A part that all its requests have left stays, with zeros.
CREATE TABLE hourly_parts (
    account_id TEXT NOT NULL,
    hour INTEGER NOT NULL, -- since the Unix epoch
    key_id TEXT NOT NULL, -- '' for none
    model TEXT NOT NULL, -- '' for none
    surface TEXT NOT NULL, -- '' for any, of what was not answered with 200
    status INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    cost_nano INTEGER NOT NULL,
    PRIMARY KEY (account_id, hour, key_id, model, surface, status)
) STRICT, WITHOUT ROWID;

-- What of each request is in a part, or in two; what is inserted here is summed up.
CREATE VIEW request_parts AS
SELECT account_id, id, surface, 1 AS requests FROM request_surfaces
UNION ALL SELECT account_id, id, '', 1 FROM requests WHERE http_status <> 200;

-- A request joins its part of a surface, or of any, by `requests` 1, and leaves it by -1. A trigger of its own, since
-- the room that one needs to run is cleared even where its WHEN is false: the trigger below costs a chat little.
CREATE TRIGGER parts_are_summed INSTEAD OF INSERT ON request_parts BEGIN
INSERT INTO hourly_parts
SELECT
    account_id, started_at_ms / 3600000, COALESCE(key_id, ''), COALESCE(model, ''), NEW.surface, http_status, NEW.requests,
    NEW.requests * MAX(0, MIN(prompt_tokens, 4294967296)), NEW.requests * MAX(0, MIN(completion_tokens, 4294967296)),
    NEW.requests * MAX(0, MIN(COALESCE(cached_tokens, 0), 4294967296)),
    NEW.requests * MAX(0, MIN(cost_nano, 1000000000000000))
FROM requests WHERE account_id = NEW.account_id AND id = NEW.id
ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens,
    cost_nano = cost_nano + excluded.cost_nano;
END;

-- What stands in the log.
INSERT INTO request_parts (account_id, id, surface, requests) SELECT account_id, id, surface, 1 FROM request_parts;

CREATE TRIGGER failures_are_summed AFTER INSERT ON requests WHEN NEW.http_status <> 200 BEGIN
INSERT INTO request_parts (account_id, id, surface, requests) VALUES (NEW.account_id, NEW.id, '', 1);
END;

-- The request is written before its surface.
CREATE TRIGGER surfaces_are_summed AFTER INSERT ON request_surfaces BEGIN
INSERT INTO request_parts (account_id, id, surface, requests) VALUES (NEW.account_id, NEW.id, NEW.surface, 1);
END;

-- What was told, and what was charged, may turn out otherwise.
CREATE TRIGGER corrected_requests_leave_their_parts BEFORE UPDATE OF http_status, cost_nano ON requests
WHEN NEW.http_status <> OLD.http_status OR NEW.cost_nano <> OLD.cost_nano BEGIN
INSERT INTO request_parts (account_id, id, surface, requests)
SELECT account_id, id, surface, -1 FROM request_parts WHERE account_id = OLD.account_id AND id = OLD.id;
END;

CREATE TRIGGER corrected_requests_join_their_parts AFTER UPDATE OF http_status, cost_nano ON requests
WHEN NEW.http_status <> OLD.http_status OR NEW.cost_nano <> OLD.cost_nano BEGIN
INSERT INTO request_parts (account_id, id, surface, requests)
SELECT account_id, id, surface, 1 FROM request_parts WHERE account_id = NEW.account_id AND id = NEW.id;
END;

-- No sum follows a deletion.
CREATE TRIGGER surfaces_go_with_their_requests AFTER DELETE ON requests BEGIN
DELETE FROM request_surfaces WHERE account_id = OLD.account_id AND id = OLD.id;
END;
