-- So that what a key has spent, and when it was used last, is summed up without the hours of the others.
CREATE INDEX hourly_usage_by_key ON hourly_usage (account_id, key_id, hour);
