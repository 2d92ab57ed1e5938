"""Hold, settle, void, credit: the money of accounts."""
