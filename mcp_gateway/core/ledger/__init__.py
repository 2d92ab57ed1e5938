"""Hold, settle, release, credit: the money of accounts."""
