"""`twistd homeserver`: tells Twisted where the service is made, and imports nothing of it.

This file is installed as twisted/plugins/homeserver_dropin.py.  Twisted imports every plugin whenever it lists them,
so whatever stood here would be paid for by every `twistd` on the machine.
"""

from twisted.application.service import ServiceMaker

homeserver = ServiceMaker(
    "Sennit homeserver",
    "homeserver.twisted_service",
    "A Matrix homeserver.",
    "homeserver",
)
