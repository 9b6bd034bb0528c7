"""What may not be said, and what is reported."""
