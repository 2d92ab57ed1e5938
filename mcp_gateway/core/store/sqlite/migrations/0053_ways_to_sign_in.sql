-- How a session began.
ALTER TABLE user_sessions ADD COLUMN signed_in_by TEXT NOT NULL DEFAULT 'password'
    CHECK (signed_in_by IN ('password', 'issuer'));
