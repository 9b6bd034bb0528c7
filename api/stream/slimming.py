"""What a WebSocket costs in memory while nothing is said on it: less than a kilobyte of Autobahn's, instead of six.

An Autobahn protocol keeps some eighty attributes in a dictionary of 3.3 KiB: the factory's settings, the state of a
connection, and what the opening handshake was about. Three means against that, none of which changes Autobahn:

- `SlimProtocol` has slots for the state, so there is no dictionary;
- `with_settings` puts the settings into a class, where Autobahn finds them and leaves them ("only copy if not already
  set on protocol");
- `slim`, called once the connection is open, lets go of what was for opening it, and has permessage-deflate keep no
  compressor between messages: where no context is taken over it is of no use, and it has 150 KiB.

What another version of Autobahn adds is kept in a dictionary as ever, and works.

Autobahn's `is_open`, `is_closed`, `on` and `transport_details` are of no use after `slim`; `onOpen` and `onClose` are.
A closed connection is in no cycle of references, so it is freed at once and not when all garbage is collected, which a
server does seldom (see `runtime.garbage`).
"""

from __future__ import annotations

from typing import Any, Final

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflate
from autobahn.websocket.protocol import TrafficStats

# What the opening handshake leaves behind.
_OF_OPENING: Final = (
    "_wskey",
    "http_headers",
    "http_request_data",
    "http_request_host",
    "http_request_params",
    "http_request_path",
    "http_request_uri",
    "http_response_data",
    "http_status_line",
    "websocket_extensions",
    "websocket_origin",
    "websocket_protocols",
)
# The state of a connection that is not an attribute of one of Autobahn's classes, which a slot would hide.
_OF_CONNECTION: Final = (
    "_isMessageCompressed",
    "_perMessageCompress",
    "_transport_details",
    "autoPingPending",
    "autoPingPendingCall",
    "autoPingPendingSent",
    "autoPingPendingSeq",
    "autoPingTimeoutCall",
    "closeHandshakeTimeoutCall",
    "closedByMe",
    "control_frame_data",
    "current_frame",
    "current_frame_masker",
    "data",
    "droppedByMe",
    "failedByMe",
    "frame_data",
    "frame_length",
    "inside_message",
    "is_closed",
    "is_open",
    "localCloseCode",
    "localCloseReason",
    "message_data",
    "message_data_total_length",
    "message_is_binary",
    "openHandshakeTimeoutCall",
    "remoteCloseCode",
    "remoteCloseReason",
    "send_queue",
    "send_state",
    "state",
    "trackedTimings",
    "trafficStats",
    "triggered",
    "utf8validateIncomingCurrentMessage",
    "utf8validateLast",
    "utf8validator",
    "wasClean",
    "wasCloseHandshakeTimeout",
    "wasMaxFramePayloadSizeExceeded",
    "wasMaxMessagePayloadSizeExceeded",
    "wasNotCleanReason",
    "wasOpenHandshakeTimeout",
    "wasServerConnectionDropTimeout",
    "wasServingFlashSocketPolicyFile",
    "websocket_extensions_in_use",
    "websocket_protocol_in_use",
    "websocket_version",
)
# Attributes of the classes above, which `SlimProtocol.__init__` sets as they are there.
_OF_TRANSPORT: Final = {"connected": 0, "factory": None, "peer": None, "transport": None}


class SlimProtocol(WebSocketServerProtocol):
    """An Autobahn protocol without a dictionary for each connection.

    A subclass should declare slots for attributes of its own.
    """

    __slots__ = (*_OF_OPENING, *_OF_CONNECTION, *_OF_TRANSPORT)

    def __init__(self) -> None:
        for name, value in _OF_TRANSPORT.items():
            setattr(self, name, value)
        super().__init__()

    def set_valid_events(self, valid_events: Any = None) -> None:
        """Keep no list of the events that `on` knows."""

    def onFrameEnd(self) -> Any:
        """Let go of what unmasks a frame at its end."""
        result = super().onFrameEnd()
        self.current_frame_masker = None
        return result


def with_settings(protocol: type[SlimProtocol], factory: WebSocketServerFactory) -> type[SlimProtocol]:
    """Return a subclass of `protocol` that has the settings of `factory`, for it to make its protocols of.

    They are those at this time; call it after `setProtocolOptions`.
    """
    settings: dict[str, Any] = {"__slots__": (), "__doc__": protocol.__doc__}
    for name in protocol.CONFIG_ATTRS:
        value = getattr(factory, name)
        # As an attribute of a class, a function would become a method.
        settings[name] = staticmethod(value) if callable(value) else value
    return type(protocol.__name__, (protocol,), settings)


def slim(protocol: Any) -> None:
    """Let go of what an open connection needs no more; `protocol` is a `WebSocketServerProtocol`.

    To be called in `onOpen`, or later.
    """
    for name in _OF_OPENING:
        if hasattr(protocol, name):
            delattr(protocol, name)
    protocol._transport_details = None
    protocol.is_open = protocol.is_closed = _NOBODY
    protocol.trafficStats = _TRAFFIC
    if not protocol.send_queue:
        protocol.send_queue = _Queue()
    if type(protocol._perMessageCompress) is PerMessageDeflate:
        protocol._perMessageCompress.__class__ = _SlimDeflate


class _Nobody:
    """Instead of a Deferred that nobody waits for: its result would be the connection, which has it."""

    __slots__ = ()

    def callback(self, result: object) -> None:
        """Nobody is told."""


class _Queue(list[Any]):
    """Instead of a deque, which has 750 bytes when empty; only writing in chops ever fills it."""

    __slots__ = ()

    def popleft(self) -> Any:
        """Remove the first and return it."""
        return self.pop(0)


class _SlimDeflate(PerMessageDeflate):
    """permessage-deflate that keeps nothing between messages if nothing is taken over from one to the next.

    Spec: RFC 7692, 7.1.1.
    """

    _compressor: Any
    _decompressor: Any

    def end_compress_message(self) -> bytes:
        """Return the end of the compressed message."""
        data: bytes = super().end_compress_message()  # type: ignore[no-untyped-call]
        if self.server_no_context_takeover if self._is_server else self.client_no_context_takeover:
            self._compressor = None
        return data

    def end_decompress_message(self) -> Any:
        """Check the end of the compressed message."""
        result = super().end_decompress_message()  # type: ignore[no-untyped-call]
        if self.client_no_context_takeover if self._is_server else self.server_no_context_takeover:
            self._decompressor = None
        return result


_NOBODY: Final = _Nobody()
# Counters that all connections share; nobody reads them.
_TRAFFIC: Final = TrafficStats()  # type: ignore[no-untyped-call]
