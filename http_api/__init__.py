"""The HTTP door: an OpenAI-compatible API over the core, and the server that carries both doors."""
