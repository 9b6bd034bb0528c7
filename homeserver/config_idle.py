"""Settings that are read and checked, but change nothing in this version, because what they are for is not there yet.

An operator who sets one is told so, by `sennit check-config` and in the log at the start, rather than left to wait for
an effect. Whoever builds such a thing takes its row away here.
"""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel

from homeserver.config_source import Finding, Location

_NO_ADDRESSES: Final = "has no effect yet: this version does not know e-mail addresses and telephone numbers"

IDLE: Final = {
    "limits.max_event_bytes": "has no effect yet: events may be as large as the specification lets them",
    "limits.third_party_invites": _NO_ADDRESSES,
    "limits.third_party_validation": _NO_ADDRESSES,
    "limits.reports": "has no effect yet: this version takes no reports",
    "turn": "has no effect yet: this version tells clients of no TURN servers",
    "metrics": "has no effect yet: this version has no metrics",
}
"""A setting, or a section for all of its settings, and what is told of it."""


def idle_settings(config: BaseModel) -> list[Finding]:
    """Return a finding for each setting without effect that has been given another value than its default."""
    found: list[Finding] = []
    for name, message in IDLE.items():
        section_name, _, key = name.partition(".")
        section = getattr(config, section_name)
        for field in (key,) if key else type(section).model_fields:
            default = type(section).model_fields[field].get_default(call_default_factory=True)
            if getattr(section, field) != default:
                location: Location = (section_name, field)
                found.append(Finding(location, message))
    return found
