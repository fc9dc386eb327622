"""No option holds a secret in plain text, wherever it hides (S27)."""

from __future__ import annotations

from typing import Any

import pytest

from tollboard.errors import InvalidOption
from tollboard.fleet.settings import check_options, resolve_references

SECRET = "sw0rdfish-and-more"


def in_server(**server: object) -> dict[str, Any]:
    return {"mcp_servers": {"x": {"command": "run", **server}}}


HIDDEN = {
    "a header of the settings": {"settings": {"extra_headers": {"authorization": f"Bearer {SECRET}"}}},
    "a header with another name": {"settings": {"extra_headers": {"X-Api-Key": SECRET}}},
    "a header of a server": {
        "mcp_servers": {"x": {"url": "https://x.example", "headers": {"Cookie": SECRET}}}
    },
    "an address": {"base_url": f"https://me:{SECRET}@proxy.example/v1"},
    "an address without a user": {"base_url": f"https://:{SECRET}@proxy.example"},
    "an address of a server": {"mcp_servers": {"x": {"url": f"https://me:{SECRET}@x.example/mcp"}}},
    "an address in a variable": {"env": {"DATABASE": f"postgres://me:{SECRET}@db.example/x"}},
    "an argument": in_server(args=["--api-key", SECRET]),
    "an argument in one word": in_server(args=["--quiet", f"--auth-token={SECRET}"]),
    "a short dash": in_server(args=["-password", SECRET]),
    "a header among arguments": in_server(args=["-H", f"Authorization: Bearer {SECRET}"]),
    "an address among arguments": in_server(args=[f"redis://me:{SECRET}@r.example"]),
    "a variable": {"env": {"SERVICE_TOKEN": SECRET}},
    "a variable of a server": in_server(env={"GITHUB_PAT_KEY": SECRET}),
    "a variable deeper down": in_server(env={"more": {"PASSWORD": SECRET}}),
    "an option called so": {"settings": {"extra_body": {"auth": {"api_key": SECRET}}}},
    "below a sub-agent": {"sub_agents": [{"settings": {"extra_headers": {"authorization": SECRET}}}]},
    "a key by its looks": {"env": {"HARMLESS": "sk-ant-api03-abcdefghijklmnop"}},
    "a key by its looks, in a list": in_server(args=["ghp_abcdefghijklmnopqrstuvwxyz0123"]),
    "a pool's role": {"roles": {"reader": {"env": {"API_KEY": SECRET}}}},
}


@pytest.mark.parametrize("place", HIDDEN)
def test_s27_a_secret_in_plain_text_is_refused_and_not_repeated(place: str) -> None:
    with pytest.raises(InvalidOption, match="looks like a secret") as refused:
        check_options(HIDDEN[place])
    assert SECRET not in str(refused.value)
    assert "sk-ant-api03" not in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        {"settings": {"extra_headers": {"authorization": "$GATEWAY"}, "max_tokens": 100}},
        {"env": {"API_KEY": "$KEY", "PATH": "/usr/bin:/bin", "TOKENIZERS_PARALLELISM": "$X"}},
        {"base_url": "http://127.0.0.1:8080/v1", "model": "openai:gpt-5"},
        {"base_url": "http://me@proxy.example:8080/v1"},
        in_server(
            args=[
                "--max-tokens",
                "100",
                "--quiet",
                "--port=80",
                "--api-key",
                "$KEY",
                "--token-file=/x",
                "run:fast",
                "--key-file",
            ]
        ),
        {"system_prompt": "Never print postgres://user:password@host or --api-key VALUE."},
        {"script": [{"approval": {"tool": "sh", "arguments": {"token": "abc"}}}]},
        {"limits": {"total_tokens_limit": 5}, "until_tool": "token"},
    ],
)
def test_what_is_no_secret_is_taken(options: dict[str, Any]) -> None:
    check_options(options)


def test_a_reference_is_replaced_in_extra_headers_too() -> None:
    options = {"settings": {"extra_headers": {"authorization": "$GATEWAY"}}}
    found = resolve_references(options, {"GATEWAY": "Bearer x"})
    assert found == {"settings": {"extra_headers": {"authorization": "Bearer x"}}}
