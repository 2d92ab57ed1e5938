-- What all keys of an account may use together. A limit is NULL (the highest among its keys), -1 (none) or the number.
ALTER TABLE accounts ADD COLUMN requests_per_minute INTEGER CHECK (requests_per_minute >= -1);
ALTER TABLE accounts ADD COLUMN requests_per_day INTEGER CHECK (requests_per_day >= -1);
ALTER TABLE accounts ADD COLUMN tokens_per_minute INTEGER CHECK (tokens_per_minute >= -1);
ALTER TABLE accounts ADD COLUMN in_flight INTEGER CHECK (in_flight >= -1);
