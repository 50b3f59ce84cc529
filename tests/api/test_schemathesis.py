"""Requests made from the service's own OpenAPI document: whatever it allows, and what it does not."""

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import BaseSchema

from tests.api.asking import GENERATOR
from tests.api.test_any_request import ALLOWED, short
from tests.running import RunningServer


@pytest.fixture
def api_schema(server: RunningServer) -> BaseSchema:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("api_schema")


@schema.parametrize()
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
    ],
)
def test_no_request_is_the_servers_fault(case: Case) -> None:
    if isinstance(case.body, dict):
        case.body = short(case.path, case.body)
        if isinstance(case.body.get("model"), str) and len(case.body) % 2:
            case.body["model"] = GENERATOR
        if "keep_alive" in case.body:
            case.body["keep_alive"] = -1
    response = case.call()
    case.validate_response(response, checks=[not_a_server_error])
    assert response.status_code in ALLOWED
