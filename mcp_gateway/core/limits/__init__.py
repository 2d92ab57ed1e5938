"""Requests a minute and a day, tokens a minute, answers in flight."""
