"""Messages: what is said in a room reaches those who are in it, once and unchanged."""
