"""Reports are shown to others: what opens accounts is hidden in all that is kept for them.

Told by its name: in JSON (also in JSON that is a text in JSON), in Python's words for the same, in the query of a URL,
and behind `Bearer`.
"""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "[hidden]"
_NAMES: Final = (
    "access_token|refresh_token|login_token|id_token|token|password|new_password|passphrase|jwt|mac|"
    "secret|client_secret|shared_secret|registration_shared_secret|registration_token|admin_secret"
)
_MEMBER: Final = re.compile(rf"""((["'])(?:{_NAMES})\2\s*:\s*)(["'])((?:\\.|(?!\3)[^\\])+)""", re.DOTALL)
_MEMBER_IN_TEXT: Final = re.compile(rf"""(\\+"(?:{_NAMES})\\+"\s*:\s*\\+")([^"\\]+)""")
_PARAMETER: Final = re.compile(rf"""([?&](?:{_NAMES})=)[^&\s"'#]+""")
_BEARER: Final = re.compile(r"(?i)(\bbearer\s+)[^\s\"',;]{4,}")


def hide(text: str) -> str:
    """Return a text in which tokens, passwords and secrets are hidden; one that was cut off, too."""
    text = _MEMBER.sub(rf"\1\3{HIDDEN}", text)
    text = _MEMBER_IN_TEXT.sub(rf"\1{HIDDEN}", text)
    text = _PARAMETER.sub(rf"\1{HIDDEN}", text)
    return _BEARER.sub(rf"\1{HIDDEN}", text)
