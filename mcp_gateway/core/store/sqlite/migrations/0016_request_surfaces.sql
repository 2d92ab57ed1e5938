-- In what a request was asked, where that is not chat: most rows are chats, and `requests` keeps its columns.
CREATE TABLE request_surfaces (
    account_id TEXT NOT NULL,
    id TEXT NOT NULL,
    surface TEXT NOT NULL,
    PRIMARY KEY (account_id, id)
) STRICT, WITHOUT ROWID;

-- The part of `hourly_usage` that was asked in these, kept and bounded as that is: the rest is chat.
CREATE TABLE hourly_surfaces (
    account_id TEXT NOT NULL,
    hour INTEGER NOT NULL, -- since the Unix epoch
    surface TEXT NOT NULL,
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    cost_nano INTEGER NOT NULL,
    PRIMARY KEY (account_id, hour, surface)
) STRICT, WITHOUT ROWID;

-- The request is written before its surface.
CREATE TRIGGER surfaces_are_summed AFTER INSERT ON request_surfaces BEGIN
INSERT INTO hourly_surfaces
SELECT
    account_id, started_at_ms / 3600000, NEW.surface, 1,
    MAX(0, MIN(prompt_tokens, 4294967296)), MAX(0, MIN(completion_tokens, 4294967296)),
    MAX(0, MIN(COALESCE(cached_tokens, 0), 4294967296)), MAX(0, MIN(cost_nano, 1000000000000000))
FROM requests WHERE account_id = NEW.account_id AND id = NEW.id
ON CONFLICT DO UPDATE SET
    requests = requests + 1,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens,
    cost_nano = cost_nano + excluded.cost_nano;
END;

CREATE TRIGGER corrected_costs_of_surfaces_are_summed AFTER UPDATE OF cost_nano ON requests
WHEN NEW.cost_nano <> OLD.cost_nano BEGIN
UPDATE hourly_surfaces
SET cost_nano = cost_nano
    + MAX(0, MIN(NEW.cost_nano, 1000000000000000)) - MAX(0, MIN(OLD.cost_nano, 1000000000000000))
WHERE account_id = NEW.account_id AND hour = NEW.started_at_ms / 3600000
    AND surface = (SELECT surface FROM request_surfaces AS named WHERE named.account_id = NEW.account_id AND named.id = NEW.id);
END;

-- No sum follows a deletion.
CREATE TRIGGER surfaces_go_with_their_requests AFTER DELETE ON requests BEGIN
DELETE FROM request_surfaces WHERE account_id = OLD.account_id AND id = OLD.id;
END;
