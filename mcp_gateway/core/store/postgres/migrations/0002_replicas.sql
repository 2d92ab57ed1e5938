-- Several servers of one database: which writers are replicas, and which of these were taken for dead.

ALTER TABLE writers
    ADD COLUMN is_replica boolean NOT NULL DEFAULT false,
    ADD COLUMN is_over boolean NOT NULL DEFAULT false; -- its money is everybody's again; it goes on as another, if at all
