"""Taking a connection over from HTTP: after a request to upgrade it, another protocol goes on with it.

Spec: RFC 9110, 7.8.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IProtocol
from twisted.protocols.policies import ProtocolWrapper

from homeserver.web.request import WebRequest
from homeserver.web.site import StrictChannel


def take_over(request: WebRequest, protocol: IProtocol, head: bytes) -> bool:
    """Connect `protocol` in place of HTTP, and give it `head`, and all that has come after the request's.

    The handler then answers `TAKEN_OVER`. False if the client has gone meanwhile, or the request came without a
    connection of its own.
    """
    twisted_request: Any = request.twisted_request
    channel: Any = getattr(twisted_request, "channel", None)
    if channel is None or request.disconnected:
        return False
    if isinstance(channel, StrictChannel):
        transport, unread = channel.detach()
    else:
        # twisted.web's own, under a host application's site.
        transport, channel.transport = channel.transport, None
        unread = b""
        transport.unregisterProducer()
        transport.resumeProducing()
    if isinstance(transport, ProtocolWrapper):
        transport.wrappedProtocol = protocol
    else:
        transport.protocol = protocol
    protocol.makeConnection(transport)
    protocol.dataReceived(head + unread)
    return True
