"""What a program that we start sees of the daemon's environment: the names listed here, and nothing else.

An agent writes commands and reads what they print, so what it sees is an allow-list: whatever else the daemon was
started with (keys of other services, addresses with passwords) is not passed. `pass_env` in `tollboard.toml` adds
names; a session's own `env` comes on top.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

_NAMES = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "COLORTERM", "NO_COLOR", "TMPDIR",
     "TMP", "TEMP", "HOSTNAME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "SSL_CERT_FILE",
     "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "VIRTUAL_ENV", "JAVA_HOME",
     "GOPATH", "GOROOT", "GOBIN", "CARGO_HOME", "RUSTUP_HOME", "NVM_DIR", "PYENV_ROOT", "LD_LIBRARY_PATH",
     "PKG_CONFIG_PATH"}
)  # fmt: skip
_LOCALE = re.compile(r"LC_[A-Z]+\Z")
_PROXIES = re.compile(r"(?i)(https?|all|no|ftp)_proxy\Z")
_CLAUDE = re.compile(
    r"(ANTHROPIC_|CLAUDE_|DISABLE_|API_TIMEOUT_MS\Z|IS_SANDBOX\Z|MAX_THINKING_TOKENS\Z|BASH_|MCP_)"
)
_CLOUDS: Mapping[str, re.Pattern[str]] = {
    "CLAUDE_CODE_USE_BEDROCK": re.compile(r"AWS_"),
    "CLAUDE_CODE_USE_VERTEX": re.compile(r"(GOOGLE_|CLOUDSDK_|GCLOUD_|CLOUD_ML_REGION\Z|VERTEX_)"),
    "CLAUDE_CODE_USE_FOUNDRY": re.compile(r"AZURE_"),
}
"""What the program needs to log in at a cloud, if it was told to use that."""


def inherited(environ: Mapping[str, str], also: Collection[str] = ()) -> dict[str, str]:
    """Return what a command or a server of a session inherits of `environ`; `also` names what a person has added."""
    return {name: value for name, value in environ.items() if name in also or _passes(name, value)}


def inherited_by_claude(environ: Mapping[str, str], also: Collection[str] = ()) -> dict[str, str]:
    """Return the same for the program Claude Code, which needs its login and its own settings too."""
    clouds = [pattern for switch, pattern in _CLOUDS.items() if environ.get(switch)]
    return {
        name: value
        for name, value in environ.items()
        if name in also or _passes(name, value) or _CLAUDE.match(name) or any(c.match(name) for c in clouds)
    }


def _passes(name: str, value: str) -> bool:
    if _PROXIES.match(name):
        return "@" not in value  # one with a password in it is a secret
    return name in _NAMES or _LOCALE.match(name) is not None
