"""The HTTP API as an OpenAPI 3.1 document, made of what each route declares and of the models of what travels.

Nothing is written by hand here that a route could contradict: ``gateway.routes.route`` holds requests to the same
declarations, and a route that says too little does not start the server.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from gateway.auth import Role
from gateway.declaration import JSON, PATH, Body, Content, Parameter, Route, Schema
from gateway.replies import KEY
from ztrooted.explanations import EXPLANATIONS
from ztrooted.log_memory import HEADER
from ztrooted.models import Problem

FORMAT = "3.1.0"
PROBLEM = "application/problem+json"
REFERENCE = "#/components/schemas/{model}"
TOKEN, CERTIFICATE, SESSION = "token", "certificate", "session"
WELCOME = """\
What orchestrators, auditors, operators and executors ask of a ztrooted gateway. Every answer is what it is said to be
here or a problem document (RFC 9457) whose `code` is one of a closed set and whose `instance` is also in the gateway's
log. JSON has one reading: no unknown or repeated members, no numbers beyond 53 bits, nesting bounded."""
SCHEMES = {
    TOKEN: {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of 'ztrooted gateway token', or of a configured identity provider.",
    },
    CERTIFICATE: {
        "type": "mutualTLS",
        "description": "A client certificate of a configured CA, for spiffe://DOMAIN/ROLE/NAME.",
    },
    SESSION: {
        "type": "mutualTLS",
        "description": "The session certificate that an executor was given when it enrolled.",
    },
}


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The whole document, not to be changed. ValueError for a route that does not declare enough to be described."""
    listed = tuple(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in listed:
        route.check()
        paths.setdefault(template(route), {})[route.method.lower()] = _operation(route)
    statuses = sorted({status for route in listed for status in route.statuses})
    return {
        "openapi": FORMAT,
        "info": {"title": "ztrooted gateway", "version": version("ztrooted"), "description": WELCOME},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": _schemas(_models(listed)),
            "responses": {f"problem-{status}": _problem(status) for status in statuses},
            "headers": {
                "checkpoint": {"description": "The newest checkpoint of the lineage.", "schema": {"type": "string"}}
            },
            "securitySchemes": SCHEMES,
        },
    }


def template(route: Route) -> str:
    """The path as OpenAPI writes it: parameters by name alone."""
    return route.path.replace(":.+", "")


def _operation(route: Route) -> dict[str, Any]:
    summary, _, rest = (route.handle.__doc__ or "").strip().partition("\n")
    found: dict[str, Any] = {
        "operationId": "_".join([route.method.lower(), *template(route).translate(_PLAIN).split()]),
        "summary": summary,
        "security": _security(route.roles),
        "responses": {**dict(_answers(route)), **_refusals(route)},
    }
    if rest.strip():
        found["description"] = "\n".join(line.strip() for line in rest.strip().splitlines())
    if parameters := _parameters(route):
        found["parameters"] = parameters
    if route.body is not None:
        found["requestBody"] = _body(route.body)
    return found


_PLAIN = str.maketrans("/{}-.", "     ")


def _security(roles: frozenset[Role]) -> list[dict[str, list[str]]]:
    """The alternatives for each role; none for what anybody may ask (OpenAPI 3.1 §4.8.30)."""
    found: list[dict[str, list[str]]] = []
    for role in sorted(roles - {Role.ANYONE}):
        found += [{SESSION: []}] if role is Role.EXECUTOR else [{TOKEN: [str(role)]}, {CERTIFICATE: [str(role)]}]
    return found


def _parameters(route: Route) -> list[dict[str, Any]]:
    found = [
        {"name": name, "in": "path", "required": True, "description": PATH[name], "schema": {"type": "string"}}
        for name in route.names
    ]
    for where, some in (("query", route.query), ("header", route.headers + ((KEY,) if route.keyed else ()))):
        found += [_parameter(one, where) for one in some]
    if route.tagged:
        told = "The ETag of the answer that one has already."
        found.append({"name": "If-None-Match", "in": "header", "description": told, "schema": {"type": "string"}})
    return found


def _parameter(one: Parameter, where: str) -> dict[str, Any]:
    return {
        "name": one.name,
        "in": where,
        "required": one.required,
        "description": f"{one.what[:1].upper()}{one.what[1:]}.",
        "schema": dict(one.schema),
    }


def _body(body: Body) -> dict[str, Any]:
    return {
        "required": body.required,
        "description": f"At most {body.maximum} bytes.",
        "content": {JSON: {"schema": _schema(body.model)}},
    }


def _answers(route: Route) -> Iterator[tuple[str, dict[str, Any]]]:
    for answer in route.answers:
        found: dict[str, Any] = {"description": answer.what or HTTPStatus(answer.status).phrase}
        if answer.contents:
            found["content"] = {one.media: {"schema": _schema(one.schema)} for one in answer.contents}
        if Role.ANYONE not in route.roles:
            found["headers"] = {HEADER: {"$ref": "#/components/headers/checkpoint"}}
        yield str(answer.status), found
    if route.tagged:
        yield "304", {"description": "It is what the ETag in If-None-Match names."}


def _refusals(route: Route) -> dict[str, Any]:
    answered = {str(answer.status) for answer in route.answers}
    named = {str(status): {"$ref": f"#/components/responses/problem-{status}"} for status in sorted(route.statuses)}
    return {status: reference for status, reference in named.items() if status not in answered}


def _problem(status: int) -> dict[str, Any]:
    """The refusals of one status: a problem document with one of the codes that are answered with it."""
    codes = sorted(str(reason) for reason, known in EXPLANATIONS.items() if known.status == status)
    narrowed = {"properties": {"status": {"const": status}, "code": {"enum": codes}}}
    return {
        "description": HTTPStatus(status).phrase,
        "content": {PROBLEM: {"schema": {"allOf": [{"$ref": REFERENCE.format(model=Problem.__name__)}, narrowed]}}},
    }


def _schema(schema: type[BaseModel] | Schema) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(model=schema.__name__)} if isinstance(schema, type) else dict(schema)


def _models(routes: tuple[Route, ...]) -> frozenset[type[BaseModel]]:
    models: set[type[BaseModel]] = {Problem}
    for route in routes:
        contents: list[Content] = [one for answer in route.answers for one in answer.contents]
        schemas = [one.schema for one in contents] + ([] if route.body is None else [route.body.model])
        models |= {one for one in schemas if isinstance(one, type)}
    return frozenset(models)


@cache
def _schemas(models: frozenset[type[BaseModel]]) -> dict[str, Any]:
    """JSON Schema of each model, made once: it takes as long as all else at a start. Not to be changed."""
    ordered = sorted(models, key=lambda model: model.__name__)
    _, made = models_json_schema(
        [(model, "validation") for model in ordered], ref_template=REFERENCE, schema_generator=_WireSchema
    )
    found: dict[str, Any] = made["$defs"]
    _count_characters(found)
    return found


class _WireSchema(GenerateJsonSchema):
    """JSON Schema of what travels, where bytes are base64 with padding."""

    def bytes_schema(self, schema: core_schema.BytesSchema) -> JsonSchemaValue:  # noqa: ARG002 -- pydantic's signature
        """Base64 as it stands; how long it may be is known when everything is there."""
        return {"type": "string", "contentEncoding": "base64"}


def _count_characters(schema: Any) -> None:
    """Models bound bytes; a schema bounds the characters that they are written with."""
    if isinstance(schema, dict):
        if schema.get("contentEncoding") == "base64" and "maxLength" in schema:
            schema["maxLength"] = (schema["maxLength"] + 2) // 3 * 4
        for inner in schema.values():
            _count_characters(inner)
    elif isinstance(schema, list):
        for inner in schema:
            _count_characters(inner)
