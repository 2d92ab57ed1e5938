-- What the requests of each account, key and model come to, by the UTC hour that they started in: reports and balances
-- read these few rows where they read every request. Triggers keep them, so that a sum is committed with its request,
-- whoever writes it, and a request that is recorded twice counts once; no trigger follows a deletion, so that sums outlive
-- their requests. Each count is bounded, so that no sum overflows: see _sum_of in sql/requests.py.
CREATE TABLE hourly_usage (
    account_id TEXT NOT NULL,
    hour INTEGER NOT NULL, -- since the Unix epoch
    key_id TEXT NOT NULL, -- '' for none, as for guests
    model TEXT NOT NULL, -- '' for none, as for a request that named no model that there is
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    cost_nano INTEGER NOT NULL,
    PRIMARY KEY (account_id, hour, key_id, model)
) STRICT, WITHOUT ROWID;

INSERT INTO hourly_usage
SELECT
    account_id, started_at_ms / 3600000, COALESCE(key_id, ''), COALESCE(model, ''), COUNT(*),
    SUM(MAX(0, MIN(prompt_tokens, 4294967296))), SUM(MAX(0, MIN(completion_tokens, 4294967296))),
    SUM(MAX(0, MIN(COALESCE(cached_tokens, 0), 4294967296))), SUM(MAX(0, MIN(cost_nano, 1000000000000000)))
FROM requests GROUP BY 1, 2, 3, 4;

-- Written as CASE, since each call of MIN or MAX costs a request more than it.
CREATE TRIGGER requests_are_summed AFTER INSERT ON requests BEGIN
INSERT INTO hourly_usage VALUES (
    NEW.account_id, NEW.started_at_ms / 3600000, COALESCE(NEW.key_id, ''), COALESCE(NEW.model, ''), 1,
    CASE WHEN NEW.prompt_tokens < 0 THEN 0 WHEN NEW.prompt_tokens > 4294967296 THEN 4294967296 ELSE NEW.prompt_tokens END,
    CASE WHEN NEW.completion_tokens < 0 THEN 0 WHEN NEW.completion_tokens > 4294967296 THEN 4294967296 ELSE NEW.completion_tokens END,
    CASE WHEN NEW.cached_tokens > 4294967296 THEN 4294967296 WHEN NEW.cached_tokens > 0 THEN NEW.cached_tokens ELSE 0 END,
    CASE WHEN NEW.cost_nano < 0 THEN 0 WHEN NEW.cost_nano > 1000000000000000 THEN 1000000000000000 ELSE NEW.cost_nano END
)
ON CONFLICT DO UPDATE SET
    requests = requests + 1,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens,
    cost_nano = cost_nano + excluded.cost_nano;
END;

-- What a request was charged may be given back.
CREATE TRIGGER corrected_costs_are_summed AFTER UPDATE OF cost_nano ON requests WHEN NEW.cost_nano <> OLD.cost_nano BEGIN
UPDATE hourly_usage
SET cost_nano = cost_nano
    + MAX(0, MIN(NEW.cost_nano, 1000000000000000)) - MAX(0, MIN(OLD.cost_nano, 1000000000000000))
WHERE account_id = NEW.account_id AND hour = NEW.started_at_ms / 3600000
    AND key_id = COALESCE(NEW.key_id, '') AND model = COALESCE(NEW.model, '');
END;
