"""Being there: who is online, who is typing."""
