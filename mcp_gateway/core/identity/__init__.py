"""Who is asking? Accounts, keys, guests and addresses."""
