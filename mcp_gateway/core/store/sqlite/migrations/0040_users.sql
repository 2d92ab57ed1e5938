-- People, the account that each belongs to, where they are signed in, and what they may be let in by once.
CREATE TABLE users (
    id TEXT PRIMARY KEY,
    email TEXT NOT NULL UNIQUE, -- in its one canonical form
    password_hash TEXT, -- argon2id with its parameters; NULL while none is set
    is_administrator INTEGER NOT NULL,
    is_active INTEGER NOT NULL DEFAULT 1,
    created_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE memberships (
    user_id TEXT PRIMARY KEY REFERENCES users (id),
    account_id TEXT NOT NULL REFERENCES accounts (id),
    role TEXT NOT NULL CHECK (role IN ('owner', 'member', 'viewer'))
) STRICT, WITHOUT ROWID;
CREATE INDEX memberships_by_account ON memberships (account_id);

-- Accounts that were made together with their first user, and go without a name when their last one has gone.
CREATE TABLE accounts_of_users (account_id TEXT PRIMARY KEY REFERENCES accounts (id)) STRICT, WITHOUT ROWID;

-- Accounts that somebody registered, by the address it was done from, until they have paid or were granted credit.
CREATE TABLE sharing_accounts (
    account_id TEXT PRIMARY KEY REFERENCES accounts (id),
    address TEXT NOT NULL -- as limits count it; of IPv6 the /64
) STRICT, WITHOUT ROWID;

CREATE TABLE user_sessions (
    id TEXT PRIMARY KEY, -- `sid` of its tokens
    user_id TEXT NOT NULL REFERENCES users (id),
    cookie_sha256 BLOB NOT NULL UNIQUE,
    created_at_ms INTEGER NOT NULL,
    seen_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    agent TEXT NOT NULL, -- what the browser or program called itself
    network TEXT NOT NULL -- where it signed in from, as its /24 or /48
) STRICT, WITHOUT ROWID;
CREATE INDEX user_sessions_by_user ON user_sessions (user_id);

-- Secrets that are told once, and let somebody register or choose a password once.
CREATE TABLE one_time_secrets (
    sha256 BLOB PRIMARY KEY,
    purpose TEXT NOT NULL CHECK (purpose IN ('invitation', 'password', 'first_administrator')),
    expires_at_ms INTEGER NOT NULL,
    user_id TEXT REFERENCES users (id), -- whose password it is for
    email TEXT, -- the only one that an invitation is for; NULL for any
    account_id TEXT REFERENCES accounts (id), -- which an invitation lets into; NULL for a new one
    role TEXT NOT NULL,
    is_administrator INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What signs people's tokens.
CREATE TABLE signing_keys (
    id TEXT PRIMARY KEY, -- `kid` of its tokens
    secret BLOB NOT NULL,
    active_from_ms INTEGER NOT NULL, -- known to every server before that
    retired_at_ms INTEGER NOT NULL -- signs nothing from then on; what it signed is good until it expires
) STRICT, WITHOUT ROWID;

-- Keys that somebody made who was signed in.
CREATE TABLE keys_of_users (
    key_id TEXT PRIMARY KEY REFERENCES keys (id),
    user_id TEXT NOT NULL -- who may be gone
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_of_users_by_user ON keys_of_users (user_id);
