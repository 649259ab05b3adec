"""The house keeps to its plan: floors, pure domains, and contracts that say who may call what."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import ServiceDescriptor

from services.security.permissions import DEFAULT_ROLES, permits, rule_table
from tests import check_generated

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = sorted(ROOT.glob("protos/groundwire/*/v1/*_service.proto"))
ROOMS = sorted(file.parent for file in ROOT.glob("services/*/servicer.py"))
# What stands around a service's domain; everything else beside it is the domain.
AROUND = {"__init__", "assembly", "convert", "servicer", "settings"}
ADMIN_ONLY = {"collections:delete"}
IMPURE = {
    *("grpc", "grpc_health", "grpc_reflection", "grpc_status", "google", "groundwire", "interceptors", "opentelemetry"),
    *("chromadb", "httpx", "onnxruntime", "pydantic", "pydantic_settings", "sqlalchemy", "sqlite3", "tantivy"),
    *("socket", "subprocess", "urllib", "http"),
}


def descriptor(contract: Path) -> ServiceDescriptor:
    name = contract.stem
    module = importlib.import_module(f"groundwire.{contract.parent.parent.name}.v1.{name}_pb2")
    (service,) = module.DESCRIPTOR.services_by_name.values()
    described: ServiceDescriptor = service
    return described


def imports(source: str) -> Iterator[str]:
    """Every module that a source file imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where a module comes from"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_are_found() -> None:
    source = "import a.b\nfrom c import d\ndef f():\n    import e"
    assert list(imports(source)) == ["a.b", "c", "c.d", "e"]


# --- floors ---------------------------------------------------------------------------------------------------------


def test_floors_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def domain_files() -> list[Path]:
    rooms = [file for room in ROOMS for file in room.glob("*.py") if file.stem not in AROUND]
    completions = ROOT.glob("services/generation/completions/*.py")
    return sorted([*rooms, *completions, *ROOT.glob("services/corpus/*.py"), *ROOT.glob("services/*/ports.py")])


@pytest.mark.parametrize("file", domain_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_domain_code_is_pure(file: Path) -> None:
    for name in imports(file.read_text()):
        if name == "interceptors" or name.startswith("interceptors.current"):
            continue  # context variables of the standard library: what time is left, who calls
        assert name.split(".")[0] not in IMPURE, name
        assert ".adapters" not in name, name
        assert not name.startswith("services.runtime"), name
        if file.parent.name == "corpus":
            assert not name.startswith("services.") or name.startswith("services.corpus"), name


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_every_service_speaks_the_same_vocabulary(room: Path) -> None:
    assert {"assembly", "servicer", "settings"} <= {file.stem for file in room.glob("*.py")}


def test_only_the_settings_and_the_command_line_read_the_environment() -> None:
    readers = set()
    for file in [*ROOT.glob("services/**/*.py"), *ROOT.glob("interceptors/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv", "getenvb"}:
                readers.add(str(file.relative_to(ROOT)))
    # The pool takes the few variables that an interpreter needs out of it, so that its workers get no others.
    assert readers == {"services/runtime/settings.py", "services/ingestion/adapters/parsing/pool.py"}


HTTP = {"aiohttp", "http.client", "httpcore", "requests", "urllib.request", "urllib3"}
HTTPX = {"BaseTransport", "Client", "InvalidURL", "Request", "Response", "TransportError", "URL"}
IMPORTS_HTTP = re.compile(r"^\s*(?:import|from) (?:aiohttp|http|httpcore|httpx|requests|urllib3?)\b", re.MULTILINE)


def test_one_room_opens_http_connections() -> None:
    """Its calls are bounded; Chroma's client gets a transport from there (G1)."""
    looked_at = set()
    for file in [*ROOT.glob("services/**/*.py"), *ROOT.glob("interceptors/**/*.py"), *ROOT.glob("cli/**/*.py")]:
        place, text = str(file.relative_to(ROOT)), file.read_text()
        if place.startswith("services/http/") or not IMPORTS_HTTP.search(text):
            continue
        looked_at.add(place)
        names = set(imports(text))
        assert not HTTP & names, place
        assert not any(name.startswith("httpx.") for name in names), f"{place}: as `import httpx`, so that it is seen"
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
        used = {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "httpx"}
        allowed = HTTPX if place == "services/vectorstores/chroma_server.py" else {"URL", "InvalidURL"}
        assert used <= allowed, (place, used - allowed)
    assert "services/embedding/openai.py" in looked_at


# --- contracts ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """The contracts with their comments, which generated code does not carry."""
    out = tmp_path_factory.mktemp("protos") / "set.binpb"
    files = [str(file) for file in ROOT.glob("protos/**/*.proto")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", "--include_source_info"]
    subprocess.run([*command, f"--descriptor_set_out={out}", *files], check=True)
    found = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    return {file.name: file for file in found.file}


def test_every_contract_is_looked_at() -> None:
    assert {contract.parent.parent.name for contract in CONTRACTS} == {
        *("audit", "generation", "ingestion", "monitoring", "query", "retrieval", "store")
    }


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.stem)
def test_every_method_says_who_may_call_it(contract: Path) -> None:
    service = descriptor(contract)
    table = rule_table([service])
    assert len(table) == len(service.methods) > 0
    reachable = [held for role, held in DEFAULT_ROLES.items() if role != "admin"]
    for path, rule in table.items():
        # Services of the mesh have permissions of their own; a misspelt resource would be for admins alone.
        for_admins_alone = not any(permits(held, rule.permission) for held in reachable)
        assert rule.mesh_only or for_admins_alone == (rule.permission in ADMIN_ONLY), (path, rule.permission)


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.stem)
def test_every_method_is_described_by_a_sentence_that_begins_with_its_name(
    contract: Path, sources: dict[str, descriptor_pb2.FileDescriptorProto]
) -> None:
    file = sources[str(contract.relative_to(ROOT / "protos"))]
    comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
    for s, service in enumerate(file.service):
        assert comments[6, s].strip(), service.name
        for m, method in enumerate(service.method):
            comment = comments[6, s, 2, m].partition("buf:lint:ignore")[0].strip()
            assert comment.startswith(f"{method.name} "), (method.name, comment)
            assert comment.endswith((".", ")")), (method.name, comment)


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.stem)
def test_every_method_has_messages_of_its_own(contract: Path) -> None:
    used: list[str] = []
    for method in descriptor(contract).methods:
        used += {method.input_type.full_name, method.output_type.full_name}
    shared = {name for name in used if used.count(name) > 1}
    # Query and StreamQuery take the same question; so do Generate and StreamGenerate. Resources are returned as such.
    assert not {name for name in shared if name.endswith("Response")}, shared


# What every server offers beside its own service.
OFFERED_BY_ALL = {"dependency_service": "services.runtime.standing"}


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.stem)
def test_every_servicer_implements_or_knowingly_leaves_out_every_method(contract: Path) -> None:
    room = contract.parent.parent.name
    module = importlib.import_module(OFFERED_BY_ALL.get(contract.stem, f"services.{room}.servicer"))
    service = descriptor(contract)
    base = _generated_servicer(contract, service)
    servicers = [made for made in vars(module).values() if isinstance(made, type) and issubclass(made, base)]
    (servicer,) = [made for made in servicers if made is not base]
    for method in service.methods:
        owner = next(kind for kind in servicer.__mro__ if method.name in vars(kind))
        assert owner is not base, f"{servicer.__name__}.{method.name} is neither implemented nor named as unbuilt"
    extra = {name for name in vars(servicer) if name[0].isupper()} - {method.name for method in service.methods}
    assert not extra, f"not in the contract: {extra}"


def _generated_servicer(contract: Path, service: ServiceDescriptor) -> type:
    module: Any = importlib.import_module(f"groundwire.{contract.parent.parent.name}.v1.{contract.stem}_pb2_grpc")
    base: type = getattr(module, f"{service.name}Servicer")
    return base


# --- generated code -------------------------------------------------------------------------------------------------


def test_the_stubs_are_what_the_contracts_generate(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_generated.main([]) == 0, capsys.readouterr().out


def test_stubs_that_differ_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    assert check_generated.main(["--write"], root=tmp_path) == 0
    assert check_generated.main([], root=tmp_path) == 0
    kept = tmp_path / "generated" / "groundwire"
    (kept / "query/v1/query_service_pb2.py").write_text("# edited by hand\n")
    (kept / "store/v1/store_service_pb2_grpc.py").unlink()
    (kept / "extra.py").touch()
    capsys.readouterr()
    assert check_generated.main([], root=tmp_path) == 1
    assert capsys.readouterr().out.splitlines() == [
        "generated/groundwire/extra.py: is not generated from any contract",
        "generated/groundwire/query/v1/query_service_pb2.py: differs",
        "generated/groundwire/store/v1/store_service_pb2_grpc.py: is missing",
        "run `make proto`",
    ]
    assert check_generated.main(["--write"], root=tmp_path) == 0
    assert check_generated.main([], root=tmp_path) == 0
