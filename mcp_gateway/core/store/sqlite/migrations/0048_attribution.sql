-- The accounts that ask for it that their requests are attributed to users and tags.
CREATE TABLE attributing_accounts (account_id TEXT PRIMARY KEY REFERENCES accounts (id)) STRICT, WITHOUT ROWID;

-- Whom a request was made for, and by which tags its cost is told apart; one of neither has no row.
CREATE TABLE attributed_requests (
    account_id TEXT NOT NULL,
    id TEXT NOT NULL,
    end_user TEXT NOT NULL, -- '' for none
    tags TEXT NOT NULL, -- JSON, a list of texts
    PRIMARY KEY (account_id, id)
) STRICT, WITHOUT ROWID;

-- The users and tags that requests of a day (UTC, since the Unix epoch) have named, of which there is a largest number.
CREATE TABLE attributed_names (
    account_id TEXT NOT NULL,
    day INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('user', 'tag')),
    name TEXT NOT NULL,
    PRIMARY KEY (account_id, day, kind, name)
) STRICT, WITHOUT ROWID;

-- The parts of `hourly_usage` that are attributed. A request counts once for each of its tags, once where it has none;
-- by users alone, in the row that is its first. Unlike other sums these go with their requests: they name people.
CREATE TABLE hourly_attributed (
    account_id TEXT NOT NULL,
    hour INTEGER NOT NULL, -- since the Unix epoch
    key_id TEXT NOT NULL, -- '' for none
    model TEXT NOT NULL, -- '' for none
    end_user TEXT NOT NULL, -- '' for none
    tag TEXT NOT NULL, -- '' for none
    is_first INTEGER NOT NULL, -- 1 or 0
    task TEXT NOT NULL, -- '' for none
    surface TEXT NOT NULL,
    status INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    cost_nano INTEGER NOT NULL,
    PRIMARY KEY (account_id, hour, key_id, model, end_user, tag, is_first, task, surface, status)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER empty_attributions_go AFTER UPDATE OF requests ON hourly_attributed WHEN NEW.requests = 0 BEGIN
DELETE FROM hourly_attributed
WHERE account_id = NEW.account_id AND hour = NEW.hour AND key_id = NEW.key_id AND model = NEW.model
    AND end_user = NEW.end_user AND tag = NEW.tag AND is_first = NEW.is_first AND task = NEW.task
    AND surface = NEW.surface AND status = NEW.status;
END;

-- What of each request is in these; what is inserted here is summed up.
CREATE VIEW request_attributions AS SELECT account_id, id, 1 AS requests FROM attributed_requests;

-- A request joins by `requests` 1, and leaves by -1.
CREATE TRIGGER attributions_are_summed INSTEAD OF INSERT ON request_attributions BEGIN
INSERT INTO hourly_attributed
SELECT
    attributed.account_id, started_at_ms / 3600000, COALESCE(key_id, ''), COALESCE(model, ''), end_user,
    one.value, one.key = 0,
    COALESCE((
        SELECT task FROM routed_requests AS routed
        WHERE routed.account_id = attributed.account_id AND routed.id = attributed.id
    ), ''),
    COALESCE((
        SELECT surface FROM request_surfaces AS named
        WHERE named.account_id = attributed.account_id AND named.id = attributed.id
    ), 'chat'),
    http_status, NEW.requests,
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

-- The request, its surface and its task are written before it.
CREATE TRIGGER attributed_requests_join_their_sums AFTER INSERT ON attributed_requests BEGIN
INSERT INTO request_attributions (account_id, id, requests) VALUES (NEW.account_id, NEW.id, 1);
END;

CREATE TRIGGER attributed_requests_leave_their_sums BEFORE DELETE ON attributed_requests BEGIN
INSERT INTO request_attributions (account_id, id, requests) VALUES (OLD.account_id, OLD.id, -1);
DELETE FROM attributed_names
WHERE account_id = OLD.account_id AND day <= (
    SELECT started_at_ms / 86400000 FROM requests WHERE account_id = OLD.account_id AND id = OLD.id
);
END;

-- Before, since what they have been summed up as is told by their requests.
CREATE TRIGGER attributions_go_with_their_requests BEFORE DELETE ON requests BEGIN
DELETE FROM attributed_requests WHERE account_id = OLD.account_id AND id = OLD.id;
END;

-- What was told, and what was charged, may turn out otherwise.
CREATE TRIGGER corrected_requests_leave_their_attributions BEFORE UPDATE OF http_status, cost_nano ON requests
WHEN NEW.http_status <> OLD.http_status OR NEW.cost_nano <> OLD.cost_nano BEGIN
INSERT INTO request_attributions (account_id, id, requests)
SELECT account_id, id, -1 FROM attributed_requests WHERE account_id = OLD.account_id AND id = OLD.id;
END;

CREATE TRIGGER corrected_requests_join_their_attributions AFTER UPDATE OF http_status, cost_nano ON requests
WHEN NEW.http_status <> OLD.http_status OR NEW.cost_nano <> OLD.cost_nano BEGIN
INSERT INTO request_attributions (account_id, id, requests)
SELECT account_id, id, 1 FROM attributed_requests WHERE account_id = NEW.account_id AND id = NEW.id;
END;
