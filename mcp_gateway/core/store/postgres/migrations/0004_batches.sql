-- Batches: what requests cost and their rows by one statement, sums by one for all rows of a statement.
--
-- Every writer takes locks in one order, so that no two wait for each other: wallets by id, their grants and windows,
-- rows of requests, sums by name, and its own row of writers last. A function keeps what its name says for as long as a
-- server may call it: one that does otherwise gets another number.

CREATE FUNCTION sum_up_requests() RETURNS trigger LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    INSERT INTO hourly_usage AS sums
    SELECT
        name_of(account_number) AS account, hour, COALESCE(name_of(key_number), '') AS key,
        COALESCE(name_of(model_number), '') AS model, requests, prompt, completion, cached, cost
    FROM (
        SELECT
            account_number, started_at_ms / 3600000 AS hour, key_number, model_number, count(*) AS requests,
            sum(LEAST(GREATEST(prompt_tokens, 0), 4294967296))::bigint AS prompt,
            sum(LEAST(GREATEST(completion_tokens, 0), 4294967296))::bigint AS completion,
            sum(LEAST(GREATEST(cached_tokens, 0), 4294967296))::bigint AS cached,
            sum(LEAST(GREATEST(cost_nano, 0), 1000000000000000))::bigint AS cost
        FROM added GROUP BY 1, 2, 3, 4
    ) AS one
    ORDER BY account, hour, key, model
    ON CONFLICT (account_id, hour, key_id, model) DO UPDATE SET
        requests = sums.requests + excluded.requests,
        prompt_tokens = sums.prompt_tokens + excluded.prompt_tokens,
        completion_tokens = sums.completion_tokens + excluded.completion_tokens,
        cached_tokens = sums.cached_tokens + excluded.cached_tokens,
        cost_nano = sums.cost_nano + excluded.cost_nano;
    IF EXISTS (SELECT 1 FROM added WHERE surface IS NOT NULL OR http_status <> 200) THEN
        INSERT INTO hourly_parts AS sums
        SELECT
            name_of(account_number) AS account, hour, COALESCE(name_of(key_number), '') AS key,
            COALESCE(name_of(model_number), '') AS model, part, http_status, requests, prompt, completion, cached, cost
        FROM (
            SELECT
                account_number, started_at_ms / 3600000 AS hour, key_number, model_number, part, http_status,
                count(*) AS requests,
                sum(LEAST(GREATEST(prompt_tokens, 0), 4294967296))::bigint AS prompt,
                sum(LEAST(GREATEST(completion_tokens, 0), 4294967296))::bigint AS completion,
                sum(LEAST(GREATEST(cached_tokens, 0), 4294967296))::bigint AS cached,
                sum(LEAST(GREATEST(cost_nano, 0), 1000000000000000))::bigint AS cost
            FROM added CROSS JOIN LATERAL (VALUES (surface), (CASE WHEN http_status <> 200 THEN '' END)) AS counted (part)
            WHERE part IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6
        ) AS one
        ORDER BY account, hour, key, model, part, http_status
        ON CONFLICT (account_id, hour, key_id, model, surface, status) DO UPDATE SET
            requests = sums.requests + excluded.requests,
            prompt_tokens = sums.prompt_tokens + excluded.prompt_tokens,
            completion_tokens = sums.completion_tokens + excluded.completion_tokens,
            cached_tokens = sums.cached_tokens + excluded.cached_tokens,
            cost_nano = sums.cost_nano + excluded.cost_nano;
    END IF;
    RETURN NULL;
END
$$;
DROP TRIGGER requests_are_summed ON request_rows;
DROP FUNCTION sum_up_request;
CREATE TRIGGER requests_are_summed AFTER INSERT ON request_rows REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION sum_up_requests();

-- The numbers of names, in their order; names that are new get one

CREATE FUNCTION number_names_v1(given text[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO names (name)
    SELECT one FROM unnest(given) AS one
    WHERE NOT EXISTS (SELECT 1 FROM names WHERE name = one) ORDER BY one COLLATE "C"
    ON CONFLICT DO NOTHING;
    RETURN (
        SELECT array_agg(number ORDER BY place)
        FROM unnest(given) WITH ORDINALITY AS wanted (one, place) JOIN names ON name = one
    );
END
$$;

-- What was decided of requests: entries of `settle`, wallets, grants, windows of budgets, rows of requests.
--
-- `writer` NULL: within the transaction of whoever calls it. Else all of that writer's batch of this number.
-- Nothing is changed, and `is_done` false, where more is to be written than that: for a wallet that is not there, a
-- balance that becomes low, a threshold that a budget crosses. Accounts come once each, in their order, and so do windows.

CREATE FUNCTION settle_batch_v1(
    writer bigint, batch_number bigint, is_durable boolean, at_ms bigint,
    entry_accounts bigint[], entry_references text[], entry_paid bigint[], entry_granted bigint[],
    accounts text[], account_paid bigint[], account_granted bigint[],
    grant_ids bigint[], grant_parts bigint[],
    budget_ids text[], budget_starts bigint[], budget_spent bigint[], percents bigint[],
    record_accounts bigint[], record_keys bigint[], record_models bigint[], record_backends bigint[],
    record_prices bigint[], record_ids text[], record_client_ids text[], record_doors text[],
    record_are_streams boolean[], record_prompt bigint[], record_completion bigint[], record_cached bigint[],
    record_cost bigint[], record_started bigint[], record_latency bigint[], record_first_token bigint[],
    record_status bigint[], record_errors text[], record_reasons text[], record_surfaces text[],
    OUT is_done boolean, OUT version bigint, OUT paid bigint[], OUT granted bigint[],
    OUT left_accounts text[], OUT left_ids bigint[], OUT left_nano bigint[], OUT left_until bigint[], OUT spent bigint[]
) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    wallets_found bigint;
    is_low boolean;
BEGIN
    is_done := false;
    IF writer IS NOT NULL THEN
        IF NOT is_durable THEN
            PERFORM set_config('synchronous_commit', 'off', true);
        END IF;
        PERFORM pg_advisory_xact_lock_shared(1835231079, 1);
    END IF;
    IF cardinality(accounts) > 0 THEN
        SELECT count(*), array_agg(after_paid), array_agg(after_granted), bool_or(after_paid + after_granted < GREATEST(
            (SELECT mark_nano FROM low_balances AS low WHERE low.account_id = changed.account_id AND is_told = 0),
            (SELECT threshold_nano FROM auto_topups AS auto
             WHERE auto.account_id = changed.account_id AND off_reason IS NULL AND NOT EXISTS (
                SELECT 1 FROM auto_payments AS open
                WHERE open.account_id = changed.account_id AND state IN ('due', 'asked')
            ))
        )) INTO wallets_found, paid, granted, is_low
        FROM (
            SELECT account_id, paid_nano - account_paid[place] AS after_paid,
                granted_nano - account_granted[place] AS after_granted
            FROM (
                SELECT account_id, paid_nano, granted_nano, row_number() OVER () AS place
                FROM (
                    SELECT account_id, paid_nano, granted_nano FROM wallets WHERE account_id = ANY (accounts)
                    ORDER BY account_id FOR NO KEY UPDATE
                ) AS locked
            ) AS counted
        ) AS changed;
        IF wallets_found < cardinality(accounts) OR is_low THEN
            RETURN;
        END IF;
    END IF;
    IF cardinality(budget_ids) > 0 THEN
        PERFORM 1
        FROM unnest(budget_ids, budget_starts, budget_spent) AS more (budget, starts, amount)
        JOIN budgets ON budgets.id = budget
        LEFT JOIN budget_windows AS was ON was.budget_id = budget AND was.starts_at_ms = starts
        CROSS JOIN unnest(percents) AS percent
        WHERE 100::numeric * COALESCE(spent_nano, 0) < percent::numeric * amount_nano
            AND percent::numeric * amount_nano <= 100::numeric * (COALESCE(spent_nano, 0) + amount)
        LIMIT 1;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    is_done := true;
    IF cardinality(accounts) > 0 THEN
        WITH entered AS (
            INSERT INTO ledger_rows (
                account_number, kind, reference, paid_nano, granted_nano, held_nano, revenue_nano, grant_source_nano,
                clearing_nano, created_at_ms
            )
            SELECT account, 'settle', reference, -p, -g, 0, p + g, 0, 0, at_ms
            FROM unnest(entry_accounts, entry_references, entry_paid, entry_granted) AS entry (account, reference, p, g)
            RETURNING id
        )
        SELECT max(id) INTO version FROM entered;
        IF cardinality(grant_ids) > 0 THEN
            UPDATE grants SET remaining_nano = remaining_nano - part
            FROM unnest(grant_ids, grant_parts) AS taken (grant_id, part) WHERE id = grant_id;
        END IF;
        UPDATE wallets SET paid_nano = after_paid, granted_nano = after_granted
        FROM unnest(accounts, paid, granted) AS change (account, after_paid, after_granted) WHERE account_id = account;
        IF 0 < ANY (granted) THEN
            SELECT array_agg(account_id ORDER BY place), array_agg(id ORDER BY place),
                array_agg(remaining_nano ORDER BY place), array_agg(expires_at_ms ORDER BY place)
            INTO left_accounts, left_ids, left_nano, left_until
            FROM (
                SELECT account_id, id, remaining_nano, expires_at_ms,
                    row_number() OVER (ORDER BY expires_at_ms IS NULL, expires_at_ms, id) AS place
                FROM grants WHERE account_id = ANY (accounts) AND remaining_nano > 0
            ) AS remaining;
        END IF;
        IF cardinality(budget_ids) > 0 THEN
            WITH changed AS (
                INSERT INTO budget_windows AS was (budget_id, starts_at_ms, spent_nano)
                SELECT * FROM unnest(budget_ids, budget_starts, budget_spent)
                ON CONFLICT (budget_id, starts_at_ms) DO UPDATE SET spent_nano = was.spent_nano + excluded.spent_nano
                RETURNING budget_id, starts_at_ms, spent_nano
            )
            SELECT array_agg(spent_nano ORDER BY budget_id, starts_at_ms) INTO spent FROM changed;
        END IF;
    END IF;
    IF cardinality(record_ids) > 0 THEN
        INSERT INTO request_rows (
            account_number, key_number, model_number, backend_number, price_number, id, client_request_id, door,
            is_stream, prompt_tokens, completion_tokens, cached_tokens, cost_nano, started_at_ms, latency_ms,
            first_token_ms, http_status, error_code, finish_reason, surface
        )
        SELECT * FROM unnest(
            record_accounts, record_keys, record_models, record_backends, record_prices, record_ids, record_client_ids,
            record_doors, record_are_streams, record_prompt, record_completion, record_cached, record_cost,
            record_started, record_latency, record_first_token, record_status, record_errors, record_reasons,
            record_surfaces
        )
        ON CONFLICT (account_number, id) DO NOTHING;
    END IF;
    IF writer IS NOT NULL THEN
        UPDATE writers SET batch = batch_number, at = now() WHERE id = writer;
    END IF;
END
$$;
