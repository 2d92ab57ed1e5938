-- Accounts that may ask providers by their own paths (/proxy); no other may.
CREATE TABLE proxying_accounts (account_id TEXT PRIMARY KEY REFERENCES accounts (id)) STRICT, WITHOUT ROWID;
