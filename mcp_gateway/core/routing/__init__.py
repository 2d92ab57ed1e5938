"""Which of the offers that a request may be answered by it goes to."""
