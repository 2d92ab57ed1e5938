-- When the gateway first had a model, by its public id: `created` in the list of models is the same after a restart.
CREATE TABLE models_seen (
    id TEXT PRIMARY KEY,
    first_seen_s INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
