"""`sennit chat`: a chat in the terminal, over the live stream.

A client like any other: it knows the server by its HTTP API and by the stream (docs/stream.md) alone, and no part of
the server imports it. From the inside out:

- `text`: makes what others wrote fit for a terminal. `timeline`, `model`, `naming`: what is known of the rooms, folded
  from updates. `wording`: events as lines of text. `commands`: what a typed line means. All of these are pure.
- `http`, `login`, `saved`: the way in, and what is remembered of it. `session`: the account with its stream.
- `interpreter`: does what a typed line says. `screen` (full screen, prompt_toolkit; its pure half is `layout`) and
  `plain` (lines in, lines out) show it. `command` puts it together.
"""
