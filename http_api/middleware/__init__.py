"""Plain ASGI layers around both doors, one a file."""
