-- The leases of an account without reading those of all others, and the budgets of a holder without its account's.
ALTER TABLE leases ADD COLUMN account_id TEXT NOT NULL DEFAULT '';
UPDATE leases SET account_id = (SELECT account_id FROM budgets WHERE id = budget_id);
CREATE INDEX leases_of_account ON leases (account_id) WHERE returned_nano IS NULL;
CREATE INDEX budgets_of_holder ON budgets (holder) WHERE ended_at_ms IS NULL;
