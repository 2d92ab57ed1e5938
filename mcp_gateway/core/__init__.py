"""What happens to a request, whichever door it came in by; knows neither MCP nor HTTP routes."""
