"""Syncing and its edges: what is told, when, and what has to be asked for."""
