"""Tables of presence."""
