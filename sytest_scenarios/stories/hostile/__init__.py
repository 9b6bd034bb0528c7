"""Hostile input: what is wrong is refused, quickly and with the right words, and everybody else is served."""
