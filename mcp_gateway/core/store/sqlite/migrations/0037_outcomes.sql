-- How good a model's answers were found, by task and by who says so; what was scored stays counted when its request goes.
CREATE TABLE outcomes (
    account_id TEXT NOT NULL, -- '' for what the operator has imported
    model TEXT NOT NULL,
    task TEXT NOT NULL,
    score INTEGER NOT NULL, -- the sum, in millionths
    trials INTEGER NOT NULL,
    PRIMARY KEY (account_id, model, task)
) STRICT, WITHOUT ROWID;

-- How many imports there were, by which a running server sees another one.
CREATE TABLE outcome_imports (number INTEGER NOT NULL) STRICT;
INSERT INTO outcome_imports VALUES (0);
