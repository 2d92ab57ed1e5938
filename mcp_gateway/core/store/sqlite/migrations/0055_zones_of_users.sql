-- The time zone that a user is told times in; NULL for UTC.
ALTER TABLE users ADD COLUMN zone TEXT;
