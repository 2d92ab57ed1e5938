"""Servers of MCP that the operator names: sessions of them, their tools, and calls of these. Knows no model."""
