-- What hours come to by the day, of days that are over, so that reports of many days read a twentieth as many rows.
CREATE TABLE daily_usage (
    account_id TEXT NOT NULL,
    day INTEGER NOT NULL, -- UTC, since the Unix epoch
    key_id TEXT NOT NULL, -- '' for none
    model TEXT NOT NULL, -- '' for none
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    cost_nano INTEGER NOT NULL,
    PRIMARY KEY (account_id, day, key_id, model)
) STRICT, WITHOUT ROWID;

-- Up to when an account's days stand there. What is booked into one of these takes it and all later ones out again.
CREATE TABLE summed_days (
    account_number INTEGER PRIMARY KEY, -- of names
    until_ms INTEGER NOT NULL -- where a day begins
) STRICT;

-- As in 0060, with what takes a day out: here, since a trigger of its own would cost each request more.
DROP TRIGGER requests_are_summed;
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
UPDATE summed_days SET until_ms = NEW.started_at_ms / 86400000 * 86400000
WHERE account_number = NEW.account_number AND until_ms > NEW.started_at_ms;
END;

CREATE TRIGGER corrected_requests_leave_their_days AFTER UPDATE OF cost_nano ON request_rows
WHEN NEW.cost_nano <> OLD.cost_nano BEGIN
UPDATE summed_days SET until_ms = NEW.started_at_ms / 86400000 * 86400000
WHERE account_number = NEW.account_number AND until_ms > NEW.started_at_ms;
END;
