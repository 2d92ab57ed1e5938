-- Which replica answers a request that bears an Idempotency-Key, and the first request of a day that bore it.

CREATE TABLE claims (
    name bytea PRIMARY KEY, -- a digest: of who asks, for what, and the key
    replica bigint, -- the id of its writer; NULL once it is answered
    request_id text COLLATE "C" NOT NULL, -- of the first; '' where that is nobody's to know
    at_ms bigint NOT NULL
);

CREATE INDEX claims_by_time ON claims (at_ms);
