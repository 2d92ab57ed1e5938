-- The keys and accounts that have changed while a server runs, for it to look at again; the newest number is the last
-- change. A single number told only that something had changed, so that one change cost as much as there were keys.
DROP TABLE identity_epoch;
CREATE TABLE identity_changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    changed_id TEXT NOT NULL UNIQUE
) STRICT;

-- Revoked keys stay; what is asked about an account's live keys, its newest or those of a day reads no others.
DROP INDEX keys_of_account;
CREATE INDEX keys_of_account ON keys (account_id, id);
CREATE INDEX keys_of_account_by_time ON keys (account_id, created_at_ms);
CREATE INDEX live_keys_of_account ON keys (account_id, id) WHERE revoked_at_ms IS NULL;
