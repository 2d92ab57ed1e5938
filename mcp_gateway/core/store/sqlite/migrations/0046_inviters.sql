-- The user who made a secret for others: it ends when they are switched off or go. NULL for those of the operator.
ALTER TABLE one_time_secrets ADD COLUMN made_by TEXT REFERENCES users (id);
