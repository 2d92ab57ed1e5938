"""The gateway's own authorization server: clients that people let in by a browser, and the tokens they get."""
