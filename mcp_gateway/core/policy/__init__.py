"""What may be asked at all, whoever pays."""
