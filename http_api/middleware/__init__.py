"""What every request passes on its way to an endpoint, and every answer on its way back."""
