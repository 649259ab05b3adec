"""``groundwire serve`` before it serves."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cli import serve
from cli.services import TIERS, settings_class
from services.runtime.settings import ConfigurationError


@pytest.mark.parametrize("name", [name for tier in TIERS for name in tier])
async def test_an_address_that_is_taken_is_told_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def open_nothing(service: str) -> None:
        raise AssertionError(f"{service} was opened")

    monkeypatch.setattr(serve, "assembly", open_nothing)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match=f"{name}: cannot listen on {address}: address already in use"):
            await serve._serve({name: settings_class(name)(data_dir=tmp_path / "data")}, address, None)
    assert not (tmp_path / "data").exists()
