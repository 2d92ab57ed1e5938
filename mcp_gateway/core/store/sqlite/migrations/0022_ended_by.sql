-- What ended an answer that its backend would have gone on with; few requests have it.
ALTER TABLE request_counts ADD COLUMN ended_by TEXT;
