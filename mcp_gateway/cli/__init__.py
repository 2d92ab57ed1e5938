"""The roof: it alone knows http_api. Imports nothing, since a server needs no command but its own."""
