"""People: contacts, finding each other, ignoring, and what nobody else has to know."""
