"""Claims about the OpenAPI description: the server answers as it says, whatever is asked (schemathesis, bounded)."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from server_fixtures import live

from internvl_detect.serve.app import create_app
from internvl_detect.serve.settings import Settings
from internvl_detect.serve.tokens import Tokens


def test_the_server_answers_as_it_says_whatever_it_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("internvl_detect.serve.limits.WRONG_TOKENS_A_MINUTE", 1_000_000)
    token = {"Authorization": f"Bearer {Tokens(tmp_path / 'data').create('tests')}"}
    with live(tmp_path / "data", rate_per_min=1_000_000, decode_s=5) as client:
        described = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
        operations = [found.ok() for found in described.get_all_operations()]
        assert len(operations) >= 12
        for operation in operations:

            @given(operation.as_strategy())
            @settings(max_examples=12, suppress_health_check=list(HealthCheck))
            def ask(case):
                # any bytes fit the description, and are then no picture: 415 is the right answer
                case.call_and_validate(headers=token, excluded_checks=[positive_data_acceptance])

            ask()
        assert client.get("/readyz").status_code == 200


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
