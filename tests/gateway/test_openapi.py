"""The API's own description: complete, valid, and what is served."""

import json
import re
from copy import deepcopy
from html.parser import HTMLParser
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from gateway.api_page import STYLE, page
from gateway.auth import Role
from gateway.openapi import document, template
from gateway.routes import all_routes
from tests.support.described import validator
from tests.support.gateway_in_process import GatewayInProcess, gate
from ztrooted.explanations import EXPLANATIONS
from ztrooted.models import Model

__all__ = ["gate"]


async def test_the_document_has_exactly_the_routes_that_are_served(gate: GatewayInProcess) -> None:
    answer = await gate.call("GET", "/v1/openapi.json")
    served = {
        (route.method, getattr(route.resource, "canonical", "")) for route in gate.gateway.application().router.routes()
    }
    served = {(method, path) for method, path in served if not path.startswith("/console")}  # pages, for people
    described = {(method.upper(), path) for path, item in answer.json["paths"].items() for method in item}
    assert described == served
    assert answer.json == document(all_routes(gate.gateway))


async def test_every_operation_says_who_may_what_it_takes_and_each_answer(gate: GatewayInProcess) -> None:
    made = document(all_routes(gate.gateway))
    for route in all_routes(gate.gateway):
        said = made["paths"][template(route)][route.method.lower()]
        roles = {role for one in said["security"] for roles in one.values() for role in roles or ["executor"]}
        assert roles == {str(role) for role in route.roles - {Role.ANYONE}}
        assert said["summary"].endswith((".", "?")), route
        assert ("requestBody" in said) is (route.body is not None)
        assert {str(answer.status) for answer in route.answers} <= said["responses"].keys()
        assert {"400", "500"} <= said["responses"].keys()
        assert Role.ANYONE in route.roles or {"401", "403"} <= said["responses"].keys()
    names = [operation["operationId"] for item in made["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))


async def test_every_schema_is_one_and_every_reference_leads_somewhere(gate: GatewayInProcess) -> None:
    made = document(all_routes(gate.gateway))
    for schema in made["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for reference in set(re.findall(r"'\$ref': '#/([^']+)'", str(made))):
        found: Any = made
        for part in reference.split("/"):
            found = found[part]


async def test_a_refusal_is_described_with_its_codes(gate: GatewayInProcess) -> None:
    """Each reason is in the problem document of its own status, and in no other."""
    responses = document(all_routes(gate.gateway))["components"]["responses"]
    for reason, known in EXPLANATIONS.items():
        for name, response in responses.items():
            (content,) = response["content"].values()
            codes = content["schema"]["allOf"][1]["properties"]["code"]["enum"]
            assert (str(reason) in codes) is (name == f"problem-{known.status}")


async def test_bytes_are_described_as_the_base64_that_travels(gate: GatewayInProcess) -> None:
    schemas = document(all_routes(gate.gateway))["components"]["schemas"]
    assert schemas["EnrollmentRequest"]["properties"]["ek_public"]["contentEncoding"] == "base64"
    assert schemas["Quote"]["properties"]["attest"]["maxLength"] == 1368


async def test_an_answer_that_is_not_as_described_is_noticed(gate: GatewayInProcess) -> None:
    """The watch over every other test: another status, another type, a member too much."""
    made = document(all_routes(gate.gateway))
    schema = made["paths"]["/livez"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]

    compared = validator(json.dumps(schema), json.dumps(made["components"]))
    assert compared.is_valid({"alive": True})
    assert not compared.is_valid({"alive": True, "more": 1})
    assert not compared.is_valid({"alive": False})


class Elements(HTMLParser):
    """What a browser would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids |= {value or "" for name, value in attrs if name == "id"}


async def test_the_page_loads_nothing_and_runs_nothing(gate: GatewayInProcess) -> None:
    answer = await gate.call("GET", "/v1/docs")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    text = answer.data.decode()
    seen = Elements()
    seen.feed(text)
    assert not {"script", "img", "link", "iframe", "object", "form", "base", "svg"} & set(seen.tags)
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name in {"style", "src"}]
    links = {value or "" for name, value in seen.attributes if name == "href"}
    assert {link for link in links if not link.startswith("#")} == {"/v1/openapi.json"}
    assert {link[1:] for link in links if link.startswith("#")} <= seen.ids
    assert text.count(STYLE) == 1, "the policy allows exactly this style"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_of_the_page_can_be_read(scheme: str) -> None:
    """Contrast of at least 4.5 to 1 against each ground it stands on (WCAG 2.2, 1.4.3)."""
    defined = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    assert len(defined) == 2
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", defined[scheme == "dark"]))
    assert colours.keys() == {"ground", "text", "quiet", "link", "line", "mark"}
    for ground in ("ground", "mark"):
        for text in ("text", "quiet", "link"):
            dark, bright = sorted((luminance(colours[ground]), luminance(colours[text])))
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, as WCAG 2.2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


async def test_the_page_shows_every_address_and_every_document(gate: GatewayInProcess) -> None:
    made = document(all_routes(gate.gateway))
    text = (await gate.call("GET", "/v1/docs")).data.decode()
    for path in made["paths"]:
        assert f"<code>{path}</code>" in text
    for name in made["components"]["schemas"]:
        assert f'<section id="{name}">' in text


async def test_what_is_described_can_not_become_markup(gate: GatewayInProcess) -> None:
    made = deepcopy(document(all_routes(gate.gateway)))
    nasty = "<script>alert(1)</script>\"'&"
    made["info"]["description"] = nasty
    made["paths"]["/livez"]["get"]["summary"] = nasty
    made["paths"]["/livez"]["get"]["responses"]["200"]["description"] = nasty
    made["components"]["schemas"]["Problem"]["properties"]["detail"]["pattern"] = nasty
    assert "<script" not in page(made)


def test_every_model_of_the_wire_refuses_what_it_does_not_know() -> None:
    def all_of(model: type[Model]) -> list[type[Model]]:
        return [model, *(inner for one in model.__subclasses__() for inner in all_of(one))]

    for model in all_of(Model):
        assert model.model_config["extra"] == "forbid"
        assert model.model_config["strict"] is True
