"""Accounts and sessions: who is let in, with what, and for how long."""
