-- Whom an issuer lets in, and tokens of programs, may have no e-mail address.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, 'email TEXT NOT NULL UNIQUE', 'email TEXT UNIQUE')
WHERE type = 'table' AND name = 'users';
PRAGMA writable_schema = RESET;

-- Who users are to issuers of OpenID Connect.
CREATE TABLE identities (
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES users (id),
    was_made INTEGER NOT NULL, -- 1: the user came by it; 0: was there before
    PRIMARY KEY (issuer, subject)
) STRICT, WITHOUT ROWID;
CREATE INDEX identities_by_user ON identities (user_id);

-- The accounts of those whom an issuer tells with the same value of its claim.
CREATE TABLE claimed_accounts (
    issuer TEXT NOT NULL,
    value TEXT NOT NULL,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    PRIMARY KEY (issuer, value)
) STRICT, WITHOUT ROWID;

-- Who was deleted: a token that is older makes no user again. Of who it was, there is a hash.
CREATE TABLE ended_identities (
    sha256 BLOB PRIMARY KEY,
    at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
