"""Profiles: names and pictures."""
