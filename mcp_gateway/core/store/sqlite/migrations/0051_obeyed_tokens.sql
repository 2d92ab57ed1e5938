-- When the token was issued by which a user became what the issuer says: an older one changes nothing.
ALTER TABLE identities ADD COLUMN obeyed_at_ms INTEGER NOT NULL DEFAULT 0;
