"""What is SQLite's own, and what every request passes."""
