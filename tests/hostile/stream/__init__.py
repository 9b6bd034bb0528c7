"""Bad input to the stream: nobody else notices, memory stays as it was, and the log has no traceback."""
