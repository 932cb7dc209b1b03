"""The service is as its description says, whatever it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from bellis.service import server as server_module
from bellis.service.messages import Join
from bellis.service.openapi import description
from services import RUN_ID, TOKEN, Raw, lease, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # of the tool's own
]
STRICTER = [negative_data_rejection, positive_data_acceptance]
"""The headers are the test's own; and 1.0 is no number of slots, nor every string base64, whatever JSON Schema says."""
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Bellis-Run": RUN_ID}


@pytest.fixture(scope="module")
def schema() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch, serving() as server:
        patch.setattr(server_module, "LONGEST_WAIT_S", 0.01)
        with server.board() as board:
            board.submit(lease(1))
        with Raw(server) as worker:
            worker.ask("POST", "/v1/workers", Join(name="real"))
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/v1/openapi.json")
        with Raw(server) as worker:
            assert worker.ask("GET", "/v1/run")[0] == 200


OPERATIONS = [(path, method) for path, methods in description()["paths"].items() for method in methods]
FEW = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=60)


def cases(schema: Any, path: str, method: str) -> Any:
    """Return a strategy for requests, right and wrong ones."""
    modes = schemathesis.GenerationMode
    operation = schema[path][method.upper()]
    return st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in (modes.POSITIVE, modes.NEGATIVE)))


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_no_request_finds_an_error_of_the_server(schema: Any, path: str, method: str) -> None:
    @MANY
    @given(case=cases(schema, path, method))
    def ask(case: Any) -> None:
        case.call_and_validate(headers=HEADERS, excluded_checks=STRICTER)

    ask()


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_without_the_token_nothing_is_answered_but_who_is_there(schema: Any, path: str, method: str) -> None:
    @FEW
    @given(case=cases(schema, path, method))
    def ask(case: Any) -> None:
        status = case.call().status_code
        assert status < 500 if path in {"/v1/hello", "/v1/openapi.json"} else status in {401, 405, 404}

    ask()
