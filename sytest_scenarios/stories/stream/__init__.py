"""The stream of docs/stream.md: everything on one WebSocket."""
