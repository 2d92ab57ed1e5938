"""One file a room, with the statements of its writes and reads; as far as can be, SQL that PostgreSQL knows too."""
