"""Membership: inviting, joining, knocking, leaving, kicking, banning, and who may do which."""
