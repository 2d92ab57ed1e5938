"""Images that are named by their address, fetched from whoever has them: see fetcher.py."""
