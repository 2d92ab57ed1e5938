-- What an operator's process leaves for the running server to decide, which alone knows what is held. Rows are gone as
-- soon as the answer was read.
CREATE TABLE orders (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    asked TEXT NOT NULL,
    asked_at_ms INTEGER NOT NULL,
    answer TEXT
) STRICT;
