"""Devices: several of one person, their names, their end, and messages from one to another."""
