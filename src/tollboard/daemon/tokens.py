"""The tokens of a state directory, for `tollboard token`: the admin token, and narrower ones made from it."""

from __future__ import annotations

from collections.abc import Iterable

from tollboard.daemon.config import StateDirectory
from tollboard.errors import Denied, Invalid, NotFound
from tollboard.operations.access import Capability, derive_token


def admin_token(home: StateDirectory) -> str:
    """Return the admin token. Raises NotFound before the first daemon has made it, Denied if it is not ours to read."""
    try:
        return home.token.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise NotFound(f"there is no token yet at {str(home.token)!r}; the first daemon makes it") from None
    except OSError as exc:
        raise Denied(
            f"the token {str(home.token)!r} cannot be read: {exc.strerror}; it is its owner's alone: be that user, or "
            "use another state directory"
        ) from None
    except ValueError:
        raise Denied(
            f"the token {str(home.token)!r} is not text; remove it, and the next daemon makes a new one"
        ) from None


def narrow_token(home: StateDirectory, capabilities: Iterable[str], name: str) -> str:
    """Return a token that allows only these capabilities, recorded as `name`; nothing is stored, no daemon is asked.

    It holds until the file `token` is replaced. Raises Invalid for an unknown capability, and what `admin_token` does.
    """
    wanted = list(capabilities)
    known = {str(capability): capability for capability in Capability}
    if unknown := [word for word in wanted if word not in known]:
        raise Invalid(f"there is no capability {unknown[0]!r}; known are {', '.join(known)}")
    return derive_token(admin_token(home), name, frozenset(known[word] for word in wanted))
