"""Who gets in and out: inviting, joining, knocking, leaving, kicking, banning."""
