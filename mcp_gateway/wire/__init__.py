"""What both doors do with HTTP."""
