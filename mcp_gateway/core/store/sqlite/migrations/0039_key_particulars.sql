-- Where a key may be used from, what it is for, and how its costs are told apart; one without a row says nothing of these.
CREATE TABLE key_particulars (
    key_id TEXT PRIMARY KEY REFERENCES keys (id),
    networks TEXT, -- in CIDR notation, words between spaces; NULL for anywhere
    note TEXT,
    tags TEXT NOT NULL -- JSON, a list of texts
) STRICT, WITHOUT ROWID;
