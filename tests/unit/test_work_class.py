"""Which class each method of the contract belongs to."""

from __future__ import annotations

from importlib import import_module

import pytest

from services.resilience.tickets import WorkClass
from services.runtime import reflection
from services.runtime.admission import work_class
from services.security.permissions import Rule, administrators_only, rule_table

OPERATIONS = {
    *("AuditService/AppendEvents", "AuditService/CosignCheckpoint"),
    "GenerationService/ListEndpoints",
    *("MonitoringService/GetTopology", "MonitoringService/WatchTopology", "MonitoringService/RecordMetrics"),
    *("MonitoringService/GetMetricHistory", "MonitoringService/CreateAlertRule", "MonitoringService/ListAlertRules"),
    *("MonitoringService/DeleteAlertRule", "MonitoringService/ListAlerts", "MonitoringService/WatchAlerts"),
    *("RetrievalService/ListStores", "RetrievalService/CheckSources"),
    *("StoreService/GetCapabilities", "StoreService/CountChunks"),
}
BATCH = {
    *("IngestionService/IngestDocuments", "IngestionService/UploadDocument"),
    *("StoreService/UpsertChunks", "StoreService/DeleteChunks", "StoreService/AssignReaders"),
    *("StoreService/ReplacePayloads", "StoreService/ListPayloads", "StoreService/ListChunks"),
}


@pytest.fixture(scope="module")
def rules() -> dict[str, Rule]:
    found: dict[str, Rule] = {}
    for name in ("audit", "generation", "ingestion", "monitoring", "query", "retrieval", "store"):
        module = import_module(f"groundwire.{name}.v1.{name}_service_pb2")
        found |= rule_table([module.DESCRIPTOR.services_by_name[f"{name.capitalize()}Service"]])
    return found


def test_every_method_has_its_class(rules: dict[str, Rule]) -> None:
    classes = {path.rpartition(".")[2]: work_class(path, rule) for path, rule in rules.items()}
    assert {method for method, work in classes.items() if work is WorkClass.OPERATIONS} == OPERATIONS
    assert {method for method, work in classes.items() if work is WorkClass.BATCH} == BATCH
    assert classes["QueryService/StreamQuery"] is WorkClass.INTERACTIVE


def test_reflection_for_administrators_is_operations() -> None:
    for path in reflection.METHODS:
        assert work_class(path, administrators_only(streaming=True)) is WorkClass.OPERATIONS


def test_what_services_tell_each_other_about_themselves_is_operations() -> None:
    rule = Rule("dependencies:read", 2, mesh_only=True, streaming=True)
    assert work_class("/groundwire.resilience.v1.DependencyService/WatchDependencies", rule) is WorkClass.OPERATIONS
