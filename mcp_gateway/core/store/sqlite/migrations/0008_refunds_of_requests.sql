-- A request whose answer was refused after its settlement was committed is given back what it was charged. The new kind
-- goes into the CHECK where it stands, as https://sqlite.org/lang_altertable.html has it for constraints: to copy the
-- table would take as long as all of the ledger. The index after it makes other connections read the schema again.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, '''dispute'')', '''dispute'', ''refund_of_request'')')
WHERE type = 'table' AND name = 'ledger_transactions';
PRAGMA writable_schema = RESET;

CREATE UNIQUE INDEX a_request_is_given_back_once ON ledger_transactions (reference) WHERE kind = 'refund_of_request';

-- What a file beside the database says that it belongs to. One row.
CREATE TABLE database_identity (id TEXT NOT NULL) STRICT;
INSERT INTO database_identity VALUES (lower(hex(randomblob(16))));
