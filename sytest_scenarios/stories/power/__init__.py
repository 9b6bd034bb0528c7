"""Power: who may kick, ban, and change the room."""
