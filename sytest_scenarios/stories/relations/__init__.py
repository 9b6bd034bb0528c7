"""Relations: edits, reactions, references and threads, and what the server tells along with an event."""
