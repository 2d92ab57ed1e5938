-- A request whose backend told no usage that can be, and the policy by which its own was found: see wallet.usage_missing.
CREATE TABLE missing_usages (
    account_id TEXT NOT NULL,
    id TEXT NOT NULL,
    policy TEXT NOT NULL,
    PRIMARY KEY (account_id, id)
) STRICT, WITHOUT ROWID;
