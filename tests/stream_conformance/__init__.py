"""The stream's WebSocket endpoint against RFC 6455 and RFC 7692, frame by frame, on a running server."""
