-- The MCP servers whose tools a key may use; one without a row may use none.
CREATE TABLE key_mcp_servers (
    key_id TEXT PRIMARY KEY REFERENCES keys (id),
    labels TEXT NOT NULL -- words between spaces; * for all that its account may use
) STRICT, WITHOUT ROWID;
