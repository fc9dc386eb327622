"""`tollboard.toml`: what may be said, and what is told about what may not."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from tollboard.daemon.config import Config, read_config
from tollboard.errors import InvalidOption


def read(directory: Path, text: str) -> Config:
    path = directory / "tollboard.toml"
    path.write_text(text)
    return read_config(path)


def test_without_a_file_everything_has_a_default(tmp_path: Path) -> None:
    assert read_config(tmp_path / "none") == Config()
    assert Config().tcp_host is None


def test_what_is_said_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = read(
        tmp_path,
        "grace_s = 1\nroots = ['/src', '~/work']\nbackends = ['echo']\ntcp_host = '::1'\nmax_prompt_bytes = 1000\n",
    )
    assert found == Config(
        grace_s=1, roots=("/src", str(tmp_path / "work")), backends=("echo",), tcp_host="::1",
        max_prompt_bytes=1000,
    )  # fmt: skip


def test_an_unknown_setting_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption) as caught:
        read(tmp_path, "[tcp]\nhost = 'x'")
    assert "unknown setting 'tcp'" in str(caught.value)
    for field in fields(Config):
        assert field.name in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        "grace_s = 'x'", "grace_s = -1", "grace_s = nan", "grace_s = inf", "grace_s = true", "feed_days = 0",
        "feed_rows_per_session = 0", "feed_rows_per_session = 1.5", "roots = '/src'", "roots = ['src']", "roots = [1]",
        "tcp_port = 70000", "tcp_port = -1", "tcp_host = '0.0.0.0'", "tcp_host = 'example.com'", "tcp_exposed = 1",
        "log_level = 'loud'", "max_prompt_bytes = 0", "max_prompt_bytes = 99999999", "max_summary_bytes = 0", "grace_s",
        "grace_s = 1\ngrace_s = 2",
    ],
)  # fmt: skip
def test_wrong_values_are_refused_with_the_file_they_are_in(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(InvalidOption, match=r"tollboard\.toml"):
        read(tmp_path, wrong)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "tollboard.toml").write_bytes(b"\xff")
    with pytest.raises(InvalidOption, match="cannot be read"):
        read_config(tmp_path / "tollboard.toml")


def test_a_bind_that_is_not_loopback_needs_a_yes(tmp_path: Path) -> None:
    assert read(tmp_path, "tcp_host = '0.0.0.0'\ntcp_exposed = true").tcp_host == "0.0.0.0"
