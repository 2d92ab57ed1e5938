-- What replicas of one gateway have in common and nobody else knows: made once, by whoever comes first.
CREATE TABLE shared_secrets (
    name text COLLATE "C" PRIMARY KEY,
    secret bytea NOT NULL
);
