"""Top-ups through Stripe: sessions in which people pay, and what its events say was paid, refunded or disputed."""
