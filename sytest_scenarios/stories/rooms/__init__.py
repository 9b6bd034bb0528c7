"""Rooms: making, finding, entering and leaving them."""
