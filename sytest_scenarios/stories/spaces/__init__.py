"""Spaces: rooms that hold rooms."""
