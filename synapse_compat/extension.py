"""Synapse's own endpoints, as an extension: `Homeserver(config, extensions=[SynapseCompat()])`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.web.router import Route

from .shared_secret import SharedSecretRegistration


class SynapseCompat:
    """Adds what tools written for Synapse call."""

    def routes(self, services: Mapping[str, Any]) -> Sequence[Route]:
        """Return the routes."""
        config = services["config"]
        registration = SharedSecretRegistration(
            services["clock"],
            services["register_by_operator"],
            shared_secret=config.registration.shared_secret,
            limit=services["registration_limit"],
        )
        return registration.routes()
