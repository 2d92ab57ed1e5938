-- The models that a key may be used for; one without a row may be for all.
CREATE TABLE key_models (
    key_id TEXT PRIMARY KEY REFERENCES keys (id),
    models TEXT NOT NULL -- ids or aliases, words between spaces
) STRICT, WITHOUT ROWID;
