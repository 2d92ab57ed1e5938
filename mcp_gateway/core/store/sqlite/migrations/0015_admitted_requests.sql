-- How many requests each key and each account was admitted with on a UTC day, as the limiter counts them: what still ran
-- when a process was killed is in no other table. Rows of past days are deleted.
CREATE TABLE admitted_requests (
    day INTEGER NOT NULL, -- since the Unix epoch
    subject TEXT NOT NULL, -- the id of a key or an account
    requests INTEGER NOT NULL,
    PRIMARY KEY (day, subject)
) STRICT, WITHOUT ROWID;
