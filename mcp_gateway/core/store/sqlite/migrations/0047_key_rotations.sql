-- How many times keys of an account were given another secret, in the last day in which any was; of minted ones, minute.
CREATE TABLE key_rotations (
    account_id TEXT NOT NULL REFERENCES accounts (id),
    of_minted INTEGER NOT NULL CHECK (of_minted IN (0, 1)),
    since_ms INTEGER NOT NULL,
    rotations INTEGER NOT NULL,
    PRIMARY KEY (account_id, of_minted)
) STRICT, WITHOUT ROWID;
