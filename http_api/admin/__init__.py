"""What the operator's administrators do over HTTP: each with the same parts of the core as the command line."""
