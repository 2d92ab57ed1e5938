-- Groups of an account's keys, which have budgets together; a key is in one at most.
CREATE TABLE key_groups (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    name TEXT NOT NULL,
    UNIQUE (account_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE grouped_keys (
    key_id TEXT PRIMARY KEY REFERENCES keys (id),
    group_id TEXT NOT NULL REFERENCES key_groups (id)
) STRICT, WITHOUT ROWID;
