"""State resolution: one state of several, the same on every server.

- `conflicts`: what is to be resolved, and how it is told from the rest.
- `ordering`: the two orders in which events are replayed.
- `v1`, `v2`: the algorithms; which of them a room has is a switch of its version.
- `resolve`: the entry.

Everything is pure and synchronous, takes events by ID from a mapping that may load them as they are asked for, and
answers the same whatever the order of its inputs.  Nothing trusts that the graph is sound: an event that is missing is
no event, and a circle of auth events, which no hash allows but a chosen ID does, ends every walk.

Spec: rooms/v1, rooms/v2 and rooms/v12, "State resolution".
"""
