"""PostgreSQL, by asyncpg: for several machines, and whoever runs one already. Needs the extra `postgres`."""
