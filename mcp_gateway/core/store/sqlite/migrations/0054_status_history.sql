-- What the status page tells of the past: of each component and day the minutes in which it was looked at, and how
-- many of them were not good; and what was told of incidents and maintenance, when.
CREATE TABLE component_days (
    component TEXT NOT NULL,
    day INTEGER NOT NULL,
    minutes INTEGER NOT NULL,
    degraded_minutes INTEGER NOT NULL,
    down_minutes INTEGER NOT NULL,
    PRIMARY KEY (component, day)
) STRICT, WITHOUT ROWID;
CREATE INDEX component_days_by_day ON component_days (day);

CREATE TABLE incidents (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('incident', 'maintenance')),
    began_at_ms INTEGER NOT NULL,
    ended_at_ms INTEGER
) STRICT;
CREATE UNIQUE INDEX open_incidents ON incidents (kind) WHERE ended_at_ms IS NULL;
CREATE TABLE incident_updates (
    id INTEGER PRIMARY KEY,
    incident_id INTEGER NOT NULL REFERENCES incidents (id),
    at_ms INTEGER NOT NULL,
    text TEXT NOT NULL
) STRICT;
CREATE INDEX incident_updates_by_incident ON incident_updates (incident_id);

-- What is told already has begun by now.
INSERT INTO incidents (kind, began_at_ms)
SELECT 'incident', CAST(strftime('%s', 'now') AS INTEGER) * 1000 FROM service_notice WHERE incident IS NOT NULL;
INSERT INTO incident_updates (incident_id, at_ms, text)
SELECT incidents.id, began_at_ms, service_notice.incident FROM incidents, service_notice;
INSERT INTO incidents (kind, began_at_ms)
SELECT 'maintenance', CAST(strftime('%s', 'now') AS INTEGER) * 1000 FROM service_notice WHERE is_in_maintenance;
