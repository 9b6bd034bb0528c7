"""Logging in, tokens, passwords, and what a server says of itself."""
