-- Who changed what of the operator's, and how it was before. Nobody changes or removes an entry.
CREATE TABLE audit_log (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    actor_kind TEXT NOT NULL,
    actor TEXT NOT NULL,
    place TEXT NOT NULL, -- the host of a shell, the address of who asked over HTTP
    request_id TEXT,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    before TEXT, -- JSON, of what has changed
    after TEXT
) STRICT;

CREATE INDEX audit_log_by_subject ON audit_log (subject, id);

CREATE TRIGGER audit_entries_stay BEFORE UPDATE ON audit_log
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;

CREATE TRIGGER audit_ids_are_new BEFORE INSERT ON audit_log -- else REPLACE would remove one without a trigger
WHEN EXISTS (SELECT 1 FROM audit_log WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;

CREATE TRIGGER audit_rows_stay BEFORE DELETE ON audit_log
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
