-- Keys that a key has made with a budget, and what such keys have made: they end with whichever key made them.
CREATE TABLE minted_keys (key_id TEXT PRIMARY KEY REFERENCES keys (id)) STRICT, WITHOUT ROWID;
