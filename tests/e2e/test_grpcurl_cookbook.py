"""Every command of the grpcurl cookbook works, in the order in which it stands there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.services import MESH
from tests.support.documents import Block, blocks
from tests.support.processes import NAMES, ROOT, Mesh, grpcurl, mesh_up

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def run(block: Block, mesh: Mesh, exports: str) -> str:
    """Run a block in bash, each line of it an own success; return what it printed."""
    script, addresses = f"{exports}\n{block.body}", mesh.addresses
    for port, name in enumerate(MESH, start=50050):
        script = script.replace(f"localhost:{port}", addresses[name])
    environment = {**os.environ, **mesh.environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        # `! command` does not count for -e, so a failure that does not come is looked for in the output.
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"line {block.line}:\n{block.body}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh without documents."""
    with mesh_up(tmp_path_factory.mktemp("data")) as started:
        yield started


def test_every_command_works(mesh: Mesh) -> None:
    assert tuple(MESH) == NAMES, "the cookbook's ports are those of `groundwire up`, in order"
    found = blocks(ROOT / "examples" / "grpcurl.md", "sh")
    exports = "\n".join(block.body for block in found if block.body.startswith("export "))
    printed = [run(block, mesh, exports) for block in found]
    everything = "\n".join(printed)
    assert len(printed) == 15
    for expected in (
        "groundwire.query.v1.QueryService",
        '"status": "SERVING"',
        "FAILURE_REASON_MALFORMED",
        '"processed": 1',
        "The canteen in Rotterdam opens at 11:30 and closes at 14:00. [1]",
        '"attempt"',
        '"final"',
        "STATE_ANSWERED",
        '"group:kitchen"',
        "Code: InvalidArgument",
        "must not be blank",
        "Code: NotFound",
        "COLLECTION_NOT_FOUND",
        "x-request-id: cookbook-1",
        '"place": "catalog"',
        '"complete_time"',
    ):
        assert expected in everything, expected


def watched(address: str, request: str) -> str:
    """What a watch of some health shows at first; it does not end by itself, and gets more time where that is short."""
    shown = ""
    for seconds in ("0.3", "3", "30"):
        shown = (
            shown
            or grpcurl("-plaintext", "-max-time", seconds, "-d", request, address, "grpc.health.v1.Health/Watch").stdout
        )
    return shown


def test_listing_describing_and_health_of_every_port(mesh: Mesh) -> None:
    """What a newcomer tries first works on each service's own port."""
    for name in NAMES:
        address = mesh.addresses[name]
        service = f"groundwire.{name}.v1.{name.capitalize()}Service"
        listed = grpcurl("-plaintext", address, "list").stdout.split()
        assert {service, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= set(listed)
        assert f"service {service.rpartition('.')[2]}" in grpcurl("-plaintext", address, "describe", service).stdout
        for asked in ("", "readiness", service):
            request = json.dumps({"service": asked})
            checked = grpcurl("-plaintext", "-d", request, address, "grpc.health.v1.Health/Check")
            assert json.loads(checked.stdout) == {"status": "SERVING"}
            assert '"status": "SERVING"' in watched(address, request)
