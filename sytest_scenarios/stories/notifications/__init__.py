"""Notifications: push rules, the list of what was notified, pushers."""
