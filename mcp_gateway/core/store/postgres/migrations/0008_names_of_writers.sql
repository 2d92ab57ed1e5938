-- Only adds: which process a writer is. A database that takes the place of another may number its writers anew.

ALTER TABLE writers ADD COLUMN name text COLLATE "C";
