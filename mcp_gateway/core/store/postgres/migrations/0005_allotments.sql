-- What each replica of several may hold of an account's money, and by which number its budgets are known.

CREATE TABLE allotments (
    replica bigint NOT NULL, -- the id of its writer
    account_id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('wallet', 'pocket', 'window')),
    of_id text COLLATE "C" NOT NULL, -- of the lease whose pocket it is, or of the budget; '' of the wallet
    part bigint NOT NULL, -- a grant's id, 0 for paid money; of a window when it starts
    amount_nano bigint NOT NULL CHECK (amount_nano >= 0),
    PRIMARY KEY (account_id, replica, kind, of_id, part)
) WITH (fillfactor = 50);

CREATE INDEX allotments_by_replica ON allotments (replica);

CREATE TABLE budget_versions (
    account_id text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL
);

CREATE FUNCTION note_budgets() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO budget_versions VALUES (NEW.account_id, 1)
    ON CONFLICT (account_id) DO UPDATE SET version = budget_versions.version + 1;
    RETURN NULL;
END
$$;

CREATE TRIGGER budgets_move AFTER INSERT OR UPDATE ON budgets FOR EACH ROW EXECUTE FUNCTION note_budgets();
CREATE TRIGGER leases_move AFTER INSERT OR UPDATE ON leases FOR EACH ROW EXECUTE FUNCTION note_budgets();
CREATE TRIGGER zones_move AFTER INSERT OR UPDATE ON account_zones FOR EACH ROW EXECUTE FUNCTION note_budgets();
