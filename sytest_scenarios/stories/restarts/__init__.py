"""Restarts and crashes: what was answered is kept."""
