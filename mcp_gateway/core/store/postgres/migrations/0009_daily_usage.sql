-- Only adds: what hours come to by the day, of days that are over, for reports of many days.

CREATE TABLE daily_usage (
    account_id text COLLATE "C" NOT NULL,
    day bigint NOT NULL, -- UTC, since the Unix epoch
    key_id text COLLATE "C" NOT NULL, -- '' for none
    model text COLLATE "C" NOT NULL, -- '' for none
    requests bigint NOT NULL,
    prompt_tokens bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    cost_nano bigint NOT NULL,
    PRIMARY KEY (account_id, day, key_id, model)
);

-- Up to when an account's days stand there. What is booked into one of these takes it and all later ones out again;
-- one account after the other, so that no two batches wait for each other.
CREATE TABLE summed_days (
    account_number bigint PRIMARY KEY, -- of names
    until_ms bigint NOT NULL -- where a day begins
);

CREATE FUNCTION leave_summed_days() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    late record;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM booked JOIN summed_days USING (account_number) WHERE started_at_ms < until_ms) THEN
        RETURN NULL; -- as nearly always, at two thirds of what the loop costs
    END IF;
    FOR late IN
        SELECT number, began_ms
        FROM (SELECT account_number AS number, min(started_at_ms) AS began_ms FROM booked GROUP BY 1) AS first
        JOIN summed_days ON account_number = number AND until_ms > began_ms ORDER BY number
    LOOP
        UPDATE summed_days SET until_ms = late.began_ms / 86400000 * 86400000
        WHERE account_number = late.number AND until_ms > late.began_ms;
    END LOOP;
    RETURN NULL;
END
$$;
CREATE TRIGGER requests_leave_their_days AFTER INSERT ON request_rows REFERENCING NEW TABLE AS booked
FOR EACH STATEMENT EXECUTE FUNCTION leave_summed_days();
CREATE TRIGGER corrected_requests_leave_their_days AFTER UPDATE ON request_rows REFERENCING NEW TABLE AS booked
FOR EACH STATEMENT EXECUTE FUNCTION leave_summed_days();
