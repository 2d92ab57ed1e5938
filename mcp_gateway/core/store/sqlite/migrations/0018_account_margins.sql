-- What accounts pay above the prices of the settings, in hundredths of a percent; one without a row pays these.
CREATE TABLE account_margins (
    account_id TEXT PRIMARY KEY REFERENCES accounts (id),
    margin INTEGER NOT NULL CHECK (margin >= 0)
) STRICT, WITHOUT ROWID;
