-- Secrets of keys that others have replaced; each is of use until its end.
CREATE TABLE replaced_secrets (
    sha256 BLOB PRIMARY KEY,
    key_id TEXT NOT NULL REFERENCES keys (id),
    ends_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX replaced_secrets_by_key ON replaced_secrets (key_id, ends_at_ms);
