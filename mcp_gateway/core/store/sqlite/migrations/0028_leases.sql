-- Budgets whose amount was set aside at once from what is above them, until it returns.
CREATE TABLE leases (
    budget_id TEXT PRIMARY KEY REFERENCES budgets (id),
    pocket TEXT NOT NULL REFERENCES leases (budget_id), -- the lease whose money it spends: itself, or one above
    ends_at_ms INTEGER NOT NULL,
    returned_nano INTEGER -- what was left when it ended; NULL until that is given back
) STRICT, WITHOUT ROWID;

CREATE INDEX leases_out ON leases (ends_at_ms) WHERE returned_nano IS NULL;

-- The windows of the budgets above, which the amount was spent of, and which what is left goes back to.
CREATE TABLE lease_windows (
    lease_id TEXT NOT NULL REFERENCES leases (budget_id),
    budget_id TEXT NOT NULL REFERENCES budgets (id),
    starts_at_ms INTEGER NOT NULL,
    PRIMARY KEY (lease_id, budget_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX leases_under ON lease_windows (budget_id);

-- What is left of the money of the wallet that a lease has set aside, by where it comes from.
CREATE TABLE pockets (
    lease_id TEXT NOT NULL REFERENCES leases (budget_id),
    grant_id INTEGER NOT NULL, -- 0 for paid money
    left_nano INTEGER NOT NULL CHECK (left_nano >= 0),
    PRIMARY KEY (lease_id, grant_id)
) STRICT, WITHOUT ROWID;
