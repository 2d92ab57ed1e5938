"""Chats and messages in each other's words: values in, values out. Knows no provider but by what is passed in."""
