"""A soak of live streams: users who come, go and stumble, and the judge of what they were told."""
