"""Typed, total readers of event content.

Content is written by whoever sent the event, and the authorization rules check little of it.  A reader here never
raises and never returns a value of the wrong type: what has the wrong shape is read as if it were absent, and the
default of the spec stands.  Readers that are asked again and again for the same event are memoised on it
(`Event.typed`).

Spec: client-server API, "Room events" and the modules that define each type.
"""
