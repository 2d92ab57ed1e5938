-- What the operator has switched of the whole service while it runs: one row.
CREATE TABLE service_notice (
    is_in_maintenance INTEGER NOT NULL,
    incident TEXT
) STRICT;
INSERT INTO service_notice VALUES (0, NULL);
