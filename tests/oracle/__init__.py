"""Cross-checks with another implementation: the same events through Synapse's own functions.

- `synapse_side` is a program of its own that runs in an environment with `matrix-synapse` in it, and nothing of ours.
- `synapse_process` starts it and talks to it.
- `graphs` makes random rooms, signed; `content` the contents of their events, many of them malformed.
- `wires` makes random events in no room, `formats` events with one field changed.
- `questions` asks both sides the same of a room; `known_differences` lists where the spec says otherwise than Synapse,
  and what Synapse was right about.
"""
