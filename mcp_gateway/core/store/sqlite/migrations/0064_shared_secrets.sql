-- What replicas of one gateway have in common and nobody else knows: made once, by whoever comes first.
CREATE TABLE shared_secrets (
    name TEXT NOT NULL PRIMARY KEY,
    secret BLOB NOT NULL
) STRICT, WITHOUT ROWID;
