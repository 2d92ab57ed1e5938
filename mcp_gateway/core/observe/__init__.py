"""What can be seen of the gateway's work: metrics, the request log, logs. Never content."""
