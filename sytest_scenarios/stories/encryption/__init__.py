"""End-to-end encryption: the server hands out keys and carries what it cannot read."""
