"""Looking at a server as other servers see it, and saying in plain words what is right and what to do about the rest.

`sennit doctor` finds the server as a remote would, connects to it, reads its keys, and sends it signed requests through
the public path. Each check is a function that adds to the `Findings`; `examination` puts them in order. Nothing is
changed: not on the server that is looked at, and not in the database, which is read in one snapshot.
"""
