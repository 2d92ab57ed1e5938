"""The one path of every request for inference, whichever door and surface it came by."""
