-- What a key says of the choice of a model for `auto`; of one without a row, and where a column is NULL, the settings say it.
CREATE TABLE key_routing (
    key_id TEXT PRIMARY KEY REFERENCES keys (id),
    model_pool TEXT, -- ids or aliases, words between spaces
    mode TEXT,
    tells_event INTEGER NOT NULL -- whether streams of chats begin with what was chosen under /v1 too
) STRICT, WITHOUT ROWID;
