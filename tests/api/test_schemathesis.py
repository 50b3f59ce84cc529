"""Requests made from the service's own OpenAPI document: whatever it allows."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error

from tests.api.asking import GENERATOR
from tests.api.test_any_request import ALLOWED, BODIES, WORKSHOP_BODIES, short
from tests.api.workshop import Workshop
from tests.running import RunningServer

PATHS = (
    "/",
    "/api/version",
    "/api/tags",
    "/api/ps",
    "/v1/models",
    "/v1/models/{name}",
    "/health",
    "/health/gpu",
)
WORKSHOP_PATHS = (*WORKSHOP_BODIES, "/api/blobs/{digest}", "/api/status")


def check(case: Case) -> None:
    """Ask; every other body is for a model that is there."""
    if isinstance(case.body, dict):
        case.body = short(case.path, case.body)
        if "model" in case.body and len(case.body) % 2:
            case.body["model"] = GENERATOR
        if "keep_alive" in case.body:
            case.body["keep_alive"] = -1
    response = case.call()
    case.validate_response(response, checks=[not_a_server_error])
    assert response.status_code in ALLOWED, response.text


@pytest.mark.parametrize("path", [*PATHS, *BODIES])
def test_what_the_document_allows_is_no_fault_of_the_servers(server: RunningServer, path: str) -> None:
    check_path(server, path)


@pytest.mark.parametrize("path", WORKSHOP_PATHS)
def test_nor_is_it_where_models_come_and_go(bench: Workshop, path: str) -> None:
    check_path(bench.server, path)


def check_path(server: RunningServer, path: str) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json").include(path=path)
    found = [operation.ok() for operation in schema.get_all_operations()]
    assert found, f"{path} is not in the document"
    for operation in found:
        settings(
            max_examples=10,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )(given(case=operation.as_strategy())(check))()
