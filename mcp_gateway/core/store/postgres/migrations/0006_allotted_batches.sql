-- Batches of a replica: what they cost is taken from what it is allotted, too, in the same statement.

CREATE FUNCTION allotted_to_v1(
    holder bigint, accounts text[],
    OUT own_accounts text[], OUT own_kinds text[], OUT own_ids text[], OUT own_parts bigint[], OUT own_nano bigint[],
    OUT own_until bigint[]
) LANGUAGE sql AS $$
    SELECT array_agg(held.account_id), array_agg(kind), array_agg(of_id), array_agg(part), array_agg(amount_nano),
        array_agg(expires_at_ms)
    FROM allotments AS held
    LEFT JOIN grants ON kind <> 'window' AND part <> 0 AND grants.id = part AND grants.account_id = held.account_id
    WHERE held.account_id = ANY (accounts) AND replica = holder
$$;

-- As settle_batch_v1, for the writer that is this replica. Where a part of it is not allotted any more, nothing is done.

CREATE FUNCTION settle_allotted_v1(
    fund_accounts text[], fund_kinds text[], fund_ids text[], fund_parts bigint[], fund_nano bigint[],
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
    OUT left_accounts text[], OUT left_ids bigint[], OUT left_nano bigint[], OUT left_until bigint[], OUT spent bigint[],
    OUT own_accounts text[], OUT own_kinds text[], OUT own_ids text[], OUT own_parts bigint[], OUT own_nano bigint[],
    OUT own_until bigint[]
) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    covered bigint;
BEGIN
    is_done := false;
    IF NOT is_durable THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    PERFORM pg_advisory_xact_lock_shared(1835231079, 1);
    PERFORM 1 FROM wallets WHERE account_id = ANY (accounts) ORDER BY account_id FOR NO KEY UPDATE;
    SELECT count(*) INTO covered
    FROM unnest(fund_accounts, fund_kinds, fund_ids, fund_parts, fund_nano) AS fund (account, kind, id, part, nano)
    JOIN allotments AS held ON held.account_id = account AND replica = writer AND held.kind = fund.kind AND of_id = id
        AND held.part = fund.part AND amount_nano >= nano;
    IF covered < cardinality(fund_accounts) THEN
        RETURN;
    END IF;
    SELECT batch.* INTO is_done, version, paid, granted, left_accounts, left_ids, left_nano, left_until, spent
    FROM settle_batch_v1(
        NULL, NULL, NULL, at_ms, entry_accounts, entry_references, entry_paid, entry_granted, accounts,
        account_paid, account_granted, grant_ids, grant_parts, budget_ids, budget_starts, budget_spent,
        percents, record_accounts, record_keys, record_models, record_backends, record_prices,
        record_ids, record_client_ids, record_doors, record_are_streams, record_prompt,
        record_completion, record_cached, record_cost, record_started, record_latency,
        record_first_token, record_status, record_errors, record_reasons, record_surfaces
    ) AS batch;
    IF NOT is_done THEN
        RETURN;
    END IF;
    IF cardinality(fund_accounts) > 0 THEN
        UPDATE allotments AS held SET amount_nano = amount_nano - nano
        FROM unnest(fund_accounts, fund_kinds, fund_ids, fund_parts, fund_nano) AS fund (account, kind, id, part, nano)
        WHERE held.account_id = account AND replica = writer AND held.kind = fund.kind AND of_id = id
            AND held.part = fund.part;
        DELETE FROM allotments WHERE replica = writer AND account_id = ANY (accounts) AND amount_nano = 0;
        SELECT own.* INTO own_accounts, own_kinds, own_ids, own_parts, own_nano, own_until
        FROM allotted_to_v1(writer, accounts) AS own;
    END IF;
    UPDATE writers SET batch = batch_number, at = now() WHERE id = writer;
END
$$;
