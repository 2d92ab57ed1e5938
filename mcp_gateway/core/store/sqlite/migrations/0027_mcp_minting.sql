-- Keys that may make keys with budgets by tools of the MCP door.
CREATE TABLE mcp_minting_keys (key_id TEXT PRIMARY KEY REFERENCES keys (id)) STRICT, WITHOUT ROWID;
