"""One file a room, with the statements of its writes and reads; as far as can be, SQL that PostgreSQL knows too."""

ALL_ROWS = 2**63 - 1
"""The LIMIT of what has an OFFSET alone: SQLite asks for one, and PostgreSQL takes none that is negative."""
