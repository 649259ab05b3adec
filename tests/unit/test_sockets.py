"""No token goes to a unix socket that another user can have put there (H2)."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from cli.caller import CallerToken
from cli.errors import CliError
from services.runtime import sockets
from services.runtime.channels import open_channel
from services.runtime.settings import ConfigurationError
from services.runtime.sockets import untrusted
from tests.support.serving import ECHO, Serving

_OTHER = os.geteuid() + 4242


@pytest.fixture
def folder() -> Iterator[Path]:
    # A short name: a unix socket's path must not exceed 108 bytes.
    with tempfile.TemporaryDirectory(prefix="gw-") as directory:
        yield Path(directory)


@pytest.fixture
def listener(folder: Path) -> Iterator[Path]:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listening:
        listening.bind(str(folder / "s.sock"))
        listening.listen()
        yield folder / "s.sock"


def as_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this test makes is then another user's."""
    monkeypatch.setattr(sockets, "trusted_owners", lambda: frozenset({_OTHER}))


def test_what_this_user_made_is_trusted_and_what_is_not_there_yet(listener: Path, folder: Path) -> None:
    (folder / "link.sock").symlink_to(listener)
    for name in ("s.sock", "link.sock", "later.sock", "no/folder.sock"):
        assert untrusted(f"unix:{folder / name}") == ""
    assert untrusted("127.0.0.1:50051") == ""


def test_another_users_socket_and_directory_are_not(listener: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_another_user(monkeypatch)
    assert untrusted(f"unix:{listener}") == (
        f"the directory {listener.parent} belongs to another user (uid {os.geteuid()})"
    )
    # Their socket in a directory that is shared, such as /tmp, where only owners can remove theirs.
    monkeypatch.setattr(sockets, "untrusted_directory", lambda _: "")
    assert untrusted(f"unix:{listener}") == f"the socket {listener} belongs to another user (uid {os.geteuid()})"


@pytest.mark.parametrize(("mode", "trusted"), [(0o700, True), (0o755, True), (0o1777, True), (0o777, False)])
def test_a_directory_in_which_every_user_can_replace_files_is_not_trusted(
    mode: int, trusted: bool, listener: Path
) -> None:
    listener.parent.chmod(mode)
    assert (untrusted(f"unix:{listener}") == "") is trusted


def test_what_is_no_socket_is_told(folder: Path) -> None:
    (folder / "s.sock").write_text("")
    assert untrusted(f"unix:{folder / 's.sock'}") == f"{folder / 's.sock'} is no socket"
    (folder / "loop").symlink_to(folder / "loop")
    assert "cannot be looked at" in untrusted(f"unix:{folder / 'loop' / 's.sock'}")


async def test_a_command_sends_its_token_to_nobody_else(listener: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUNDWIRE_TOKEN", "secret")
    token = CallerToken(f"unix:{listener}")
    assert await token.metadata() == [("authorization", "Bearer secret")]
    as_another_user(monkeypatch)
    with pytest.raises(CliError, match=r"no token is sent to unix:.*belongs to another user"):
        await token.metadata()


async def test_a_service_sends_its_token_to_nobody_else(
    serving: Serving, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await serving.serve(address=f"unix:{folder}/e.sock")
    given: list[str] = []

    async def credentials() -> list[tuple[str, str]]:
        given.append("token")
        return [("authorization", "Bearer secret")]

    channel = open_channel(f"unix:{folder}/e.sock", credentials=credentials, health_checked=False)
    serving.channels.append(channel)
    method: Any = channel.unary_unary(f"/{ECHO}/Unary")
    await method(b"", timeout=30)
    assert given == ["token"]
    as_another_user(monkeypatch)
    with pytest.raises(grpc.aio.AioRpcError, match="no token is sent: the directory") as refused:
        await method(b"", timeout=30)
    assert (refused.value.code(), given) == (grpc.StatusCode.UNAVAILABLE, ["token"])


async def test_no_server_listens_where_others_can_replace_its_socket(serving: Serving, folder: Path) -> None:
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="every user can change the directory"):
        await serving.serve(address=f"unix:{folder}/e.sock")
