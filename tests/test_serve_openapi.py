"""Claims about the OpenAPI description: the server answers as it says, whatever is asked (schemathesis, bounded)."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from server_fixtures import live

from internvl_detect.serve.app import create_app
from internvl_detect.serve.settings import Settings


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    with live(tmp_path_factory.mktemp("serve") / "data", rate_per_min=1_000_000, decode_s=5) as client:
        yield schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_server_answers_as_it_says(case):
    case.call_and_validate()


def test_the_description_names_every_route_with_words_and_examples(tmp_path):
    app = create_app(Settings(tmp_path / "data"), lambda: None)
    described = app.openapi()
    app.state.server.decoders.close()
    app.state.server.store.close()
    paths = described["paths"]
    for path in ("/v1/detect", "/v1/jobs", "/v1/jobs/{id}", "/v1/jobs/{id}/events", "/v1/jobs/{id}/report"):
        assert path in paths
    for path, methods in paths.items():
        for method, route in methods.items():
            assert route.get("description"), f"{method} {path}"
            assert "421" in route["responses"]
    assert "multipart/form-data" in paths["/v1/detect"]["post"]["requestBody"]["content"]
    assert described["components"]["schemas"]["Row"]["examples"]
