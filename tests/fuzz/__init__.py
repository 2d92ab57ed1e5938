"""schemathesis against a served gateway, by its own document."""
