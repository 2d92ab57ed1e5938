"""What a prompt asks for: its task, how sure that is, and how much work it is, read from its text alone."""
