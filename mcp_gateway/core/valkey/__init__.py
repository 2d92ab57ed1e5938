"""Valkey, or Redis: what replicas of the gateway share, asked over one connection of each."""
