-- The last day by the hour, beside the days: how much of 24 hours a component was up is not told by two calendar days.
CREATE TABLE component_hours (
    component TEXT NOT NULL,
    hour INTEGER NOT NULL,
    minutes INTEGER NOT NULL,
    degraded_minutes INTEGER NOT NULL,
    down_minutes INTEGER NOT NULL,
    PRIMARY KEY (component, hour)
) STRICT, WITHOUT ROWID;
CREATE INDEX component_hours_by_hour ON component_hours (hour);
