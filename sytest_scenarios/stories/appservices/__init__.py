"""Application services: bridges that are told of their rooms and act as users of their own."""
