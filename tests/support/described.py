"""Whether what a gateway answers is what its OpenAPI document says: looked at in every test that runs one in its process."""

import json
from functools import cache
from typing import Any

from aiohttp import web
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from gateway.app import Gateway
from gateway.openapi import PROBLEM, document, template
from gateway.routes import all_routes
from gateway.routes.route import ROUTE

LOOKED_AT = 1 << 18  # bytes of a body; a larger one is a bundle or a baseline, which others verify


class Described:
    """The document of one gateway, and every answer that was not as it says."""

    def __init__(self, gateway: Gateway) -> None:
        self._document = document(all_routes(gateway))
        self._components = json.dumps(self._document["components"])
        self.contradictions: list[str] = []

    async def look(self, request: web.Request, response: web.StreamResponse) -> None:
        """A signal of aiohttp's, for each answer before it leaves."""
        route = request.get(ROUTE)
        if route is None or response.status == 204:  # of no route, or of a test's own handler
            return
        operation = self._document["paths"][template(route)][route.method.lower()]
        said = operation["responses"].get(str(response.status))
        name = f"{route.method} {route.path} answered {response.status}"
        if said is None:
            self.contradictions.append(f"{name}, which is not described")
            return
        if "$ref" in said:
            said = self._document["components"]["responses"][said["$ref"].rpartition("/")[2]]
        contents = said.get("content", {})
        if contents and response.content_type not in contents:
            self.contradictions.append(f"{name} with {response.content_type}, not {sorted(contents)}")
        elif contents and response.content_type in {"application/json", PROBLEM} and isinstance(response, web.Response):
            body = response.body
            if isinstance(body, bytes) and len(body) < LOOKED_AT:
                self._compare(name, contents[response.content_type]["schema"], body)

    def _compare(self, name: str, schema: dict[str, Any], body: bytes) -> None:
        for error in validator(json.dumps(schema), self._components).iter_errors(json.loads(body)):
            self.contradictions.append(f"{name}: {error.json_path}: {error.message[:200]}")


@cache
def validator(schema: str, components: str) -> Draft202012Validator:
    """One that finds models where the document has them."""
    whole = Resource.from_contents({"components": json.loads(components)}, default_specification=DRAFT202012)
    registry: Registry[Any] = Registry().with_resource("urn:document", whole)
    found = json.loads(schema.replace("#/components", "urn:document#/components"))
    return Draft202012Validator(found, registry=registry)
