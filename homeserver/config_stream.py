"""The section of the stream: one connection on which a client gets everything and sends everything.

docs/stream.md says what the bounds mean to a client. The port numbers are checked here; that there is a certificate for
`lines_tls_port` is checked with the whole file, since it is a listener's.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from homeserver.config_findings import at_key
from homeserver.config_values import BindAddresses, DurationMs, Port, Section, Size


class Stream(Section):
    """Connections that stay open, on which everything arrives as it happens.

    WebSocket is served by the listeners that serve `client`; lines (plain TCP or TLS, one message a line) on ports of
    their own.
    """

    enabled: bool = Field(
        default=True, description="Streams are served: over WebSocket, and over lines if ports are set."
    )
    lines_port: Port | None = Field(default=None, description="TCP port for lines without TLS; none: not served.")
    lines_tls_port: Port | None = Field(
        default=None,
        description="TCP port for lines over TLS, with the certificate of the first listener that has one.",
    )
    lines_bind: BindAddresses = Field(
        default=("127.0.0.1",), description="Local addresses to listen on for lines, with and without TLS."
    )
    ping_interval_ms: DurationMs = Field(
        default=45_000, ge=100, description="Silence of a client after which it is sent a ping."
    )
    silence_timeout_ms: DurationMs = Field(
        default=90_000, ge=200, description="Silence of a client after which it is taken for gone."
    )
    auth_timeout_ms: DurationMs = Field(
        default=10_000, ge=100, description="Longest time from the connection to the access token."
    )
    message_timeout_ms: DurationMs = Field(
        default=30_000, ge=100, description="Longest time from the first byte of a message to its last."
    )
    max_message_bytes: Size = Field(default=256 * 1024, ge=1024, le=16 * 1024**2, description="Largest message.")
    requests_in_flight: int = Field(
        default=16, ge=1, le=1000, description="Requests of a connection that are worked on at once."
    )
    sessions_per_user: int = Field(default=100, ge=1, description="Most connections of one user.")
    sessions_per_address: int = Field(default=1000, ge=1, description="Most connections from one address.")
    max_sessions: int = Field(default=16_000, ge=1, description="Most connections in all.")
    compression: bool = Field(
        default=True, description="Compression is agreed to, over WebSocket, if a client offers it."
    )

    @model_validator(mode="after")
    def _a_ping_before_the_end(self) -> Self:
        if self.silence_timeout_ms <= self.ping_interval_ms:
            raise at_key("silence_timeout_ms", "must be longer than ping_interval_ms, or every quiet client is cut off")
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.lines_port and self.lines_port == self.lines_tls_port:
            raise at_key("lines_tls_port", "must be another port than lines_port")
        return self
