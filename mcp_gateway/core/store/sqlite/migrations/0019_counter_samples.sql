-- What each backend had counted of each of its models, whenever that was read: see core/observe/counter_samples.py.
CREATE TABLE counter_samples (
    at_ms INTEGER NOT NULL, -- when they had been read
    asked_at_ms INTEGER NOT NULL,
    backend TEXT NOT NULL,
    model TEXT NOT NULL, -- by the backend's name for it
    run_at_ms INTEGER NOT NULL, -- when the gateway began that read it
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER, -- a part of the prompt's; this and what follows NULL where the backend does not tell
    finished_requests INTEGER,
    more_choices INTEGER,
    began_at_ms INTEGER, -- when these counters were 0
    ours INTEGER NOT NULL, -- requests that the gateway had there then
    others INTEGER NOT NULL, -- requests that the backend had then and that were not the gateway's
    failed_requests INTEGER NOT NULL, -- of the gateway's there, since it began
    PRIMARY KEY (at_ms, backend, model)
) STRICT, WITHOUT ROWID;
