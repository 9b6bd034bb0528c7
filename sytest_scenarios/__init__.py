"""The scenario suite: stories that judge any homeserver, over sockets, from outside.

A story is a short `async def` under `stories/<area>/` that says who does what and what must come of it; see
`docs/scenarios.md` for how to run them and how to write one. The command is `sennit-scenarios`.

    story          what a story is: its title, what it shows, what it needs
    expect         how a story says what it expects, and the sentence of a story that failed
    actors         User, Server, Room: who acts in a story, and with what
    view, stream   what a client knows from syncing; the WebSocket of docs/stream.md
    journal, http  what was done, asked and answered; requests that always end
    features       what a server can do, asked of the server itself
    launching      starting a homeserver by a description in TOML (`servers/`)
    runner         telling many stories at once, each within its time limit
    reports        the terminal, TAP, JUnit XML, HTML

Nothing here imports a homeserver: Sennit is judged by the same means as any other.
"""
