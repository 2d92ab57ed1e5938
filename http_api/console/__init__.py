"""The console: pages for people, written on the server. A page asks what the API's rows ask, and shows the answer."""
