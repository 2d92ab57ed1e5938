-- Whether the tools of a key's servers are offered in its chats by themselves.
ALTER TABLE key_mcp_servers ADD COLUMN are_offered INTEGER NOT NULL DEFAULT 0;
