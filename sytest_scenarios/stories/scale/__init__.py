"""Many people, many messages: multiplied by --scale."""
