-- The parts of `hourly_usage` whose requests named no model, by the task that was read of each, and by what they were asked
-- in and how they ended; kept and bounded as that is. A part that all its requests have left stays, with zeros.
CREATE TABLE hourly_tasks (
    account_id TEXT NOT NULL,
    hour INTEGER NOT NULL, -- since the Unix epoch
    key_id TEXT NOT NULL, -- '' for none
    model TEXT NOT NULL, -- '' for none
    task TEXT NOT NULL,
    surface TEXT NOT NULL,
    status INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    cost_nano INTEGER NOT NULL,
    PRIMARY KEY (account_id, hour, key_id, model, task, surface, status)
) STRICT, WITHOUT ROWID;

-- What of each request is in such a part; what is inserted here is summed up.
CREATE VIEW request_tasks AS SELECT account_id, id, task, 1 AS requests FROM routed_requests;

-- A request joins its part by `requests` 1, and leaves it by -1.
CREATE TRIGGER tasks_are_summed INSTEAD OF INSERT ON request_tasks BEGIN
INSERT INTO hourly_tasks
SELECT
    account_id, started_at_ms / 3600000, COALESCE(key_id, ''), COALESCE(model, ''), NEW.task,
    COALESCE((
        SELECT surface FROM request_surfaces AS named
        WHERE named.account_id = requests.account_id AND named.id = requests.id
    ), 'chat'),
    http_status, NEW.requests,
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
INSERT INTO request_tasks (account_id, id, task, requests) SELECT account_id, id, task, 1 FROM routed_requests;

-- The request and its surface are written before its task.
CREATE TRIGGER routings_are_summed AFTER INSERT ON routed_requests BEGIN
INSERT INTO request_tasks (account_id, id, task, requests) VALUES (NEW.account_id, NEW.id, NEW.task, 1);
END;

-- What was told, and what was charged, may turn out otherwise.
CREATE TRIGGER corrected_requests_leave_their_tasks BEFORE UPDATE OF http_status, cost_nano ON requests
WHEN NEW.http_status <> OLD.http_status OR NEW.cost_nano <> OLD.cost_nano BEGIN
INSERT INTO request_tasks (account_id, id, task, requests)
SELECT account_id, id, task, -1 FROM routed_requests WHERE account_id = OLD.account_id AND id = OLD.id;
END;

CREATE TRIGGER corrected_requests_join_their_tasks AFTER UPDATE OF http_status, cost_nano ON requests
WHEN NEW.http_status <> OLD.http_status OR NEW.cost_nano <> OLD.cost_nano BEGIN
INSERT INTO request_tasks (account_id, id, task, requests)
SELECT account_id, id, task, 1 FROM routed_requests WHERE account_id = NEW.account_id AND id = NEW.id;
END;
