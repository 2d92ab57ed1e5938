-- Programs that have registered themselves at the gateway's own authorization server.
CREATE TABLE oauth_clients (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    redirect_uris TEXT NOT NULL, -- words between spaces
    auth TEXT NOT NULL,
    secret_sha256 BLOB,
    registered_at_ms INTEGER NOT NULL,
    is_used INTEGER NOT NULL DEFAULT 0 -- 1 once a person has let it in
) STRICT, WITHOUT ROWID;
CREATE INDEX unused_oauth_clients ON oauth_clients (registered_at_ms) WHERE NOT is_used;

-- What a person has let a program do: each is a key, of which nobody has the secret.
CREATE TABLE oauth_grants (
    key_id TEXT PRIMARY KEY REFERENCES keys (id),
    client_id TEXT NOT NULL,
    client_name TEXT NOT NULL,
    redirect_uri TEXT NOT NULL,
    resource TEXT NOT NULL,
    challenge TEXT NOT NULL,
    ends_at_ms INTEGER NOT NULL,
    code_sha256 BLOB NOT NULL UNIQUE,
    family_sha256 BLOB UNIQUE, -- of what its refresh tokens begin with; NULL until the code is redeemed
    refresh_sha256 BLOB -- of the one that is good
) STRICT, WITHOUT ROWID;

CREATE TABLE oauth_access_tokens (
    sha256 BLOB PRIMARY KEY,
    key_id TEXT NOT NULL REFERENCES oauth_grants (key_id),
    ends_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX oauth_access_tokens_by_end ON oauth_access_tokens (ends_at_ms);
CREATE INDEX oauth_access_tokens_by_grant ON oauth_access_tokens (key_id, ends_at_ms);
