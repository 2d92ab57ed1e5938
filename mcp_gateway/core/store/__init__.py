"""The database: one writer that commits in groups, readers beside it, migrations at open."""
