-- What a key may be used for, until when, and which key made it. A key without a row has every scope (a test key
-- `inference` alone), does not expire, and was made by the operator.
CREATE TABLE key_rights (
    key_id TEXT PRIMARY KEY REFERENCES keys (id),
    scopes TEXT NOT NULL, -- words between spaces
    expires_at_ms INTEGER,
    made_by TEXT REFERENCES keys (id)
) STRICT, WITHOUT ROWID;

CREATE INDEX keys_made_by ON key_rights (made_by) WHERE made_by IS NOT NULL;
