"""The OpenAPI document as a page for people: made on the server, without scripts and without anything from elsewhere."""

import base64
import hashlib
import re
from collections.abc import Iterator
from html import escape
from typing import Any

STYLE = """
:root {
  color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif;
  --ground: #ffffff; --text: #1b1f24; --quiet: #57606a; --link: #0550ae; --line: #d0d7de; --mark: #fff8c5;
}
@media (prefers-color-scheme: dark) {
  :root { --ground: #0d1117; --text: #e6edf3; --quiet: #9aa4af; --link: #79b8ff; --line: #3d444d; --mark: #33290a; }
}
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; background: var(--ground); color: var(--text); }
a { color: var(--link); }
a:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
h1, h2, h3, h4 { line-height: 1.25; overflow-wrap: anywhere; }
h4 { margin: 1rem 0 0.25rem; font-size: 1rem; }
code { font: 0.875em ui-monospace, monospace; overflow-wrap: anywhere; }
ul { list-style: none; padding: 0; }
li { display: grid; grid-template-columns: 4.5rem 24rem 1fr; gap: 0 1rem; padding: 0.25rem 0; }
section { border-top: 1px solid var(--line); padding: 0.5rem 0; }
section:target { background: var(--mark); }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: 0.25rem 1rem 0.25rem 0; overflow-wrap: anywhere; }
th { width: 16rem; font-weight: 600; }
td:nth-child(2) { width: 20rem; }
.method { font-weight: 600; }
.roles { color: var(--quiet); }
@media (max-width: 50rem) {
  li { grid-template-columns: 4.5rem 1fr; }
  li > :nth-child(3) { grid-column: 2; }
  table, tbody, tr, th, td, td:nth-child(2) { display: block; width: auto; padding-right: 0; }
  tr { padding: 0.25rem 0; }
  th, td { padding: 0; }
  td { padding-left: 1rem; }
  td:empty { display: none; }
}
"""
POLICY = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(document: dict[str, Any]) -> str:
    """The page."""
    info = document["info"]
    schemas = document["components"]["schemas"]
    parts = [
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<title>{escape(info['title'])}</title><style>{STYLE}</style></head><body><main>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{_prose(info['description'])}</p>",
        '<p>For programs: <a href="/v1/openapi.json">/v1/openapi.json</a></p>',
        "<nav aria-labelledby=addresses><h2 id=addresses>Addresses</h2><ul>",
    ]
    operations = [
        (path, method, operation) for path, item in document["paths"].items() for method, operation in item.items()
    ]
    for path, method, operation in operations:
        name = f'<a href="#{operation["operationId"]}"><code>{escape(path)}</code></a>'
        summary = _prose(operation["summary"])
        parts.append(f"<li><span class=method>{method.upper()}</span> <span>{name}</span> <span>{summary}</span></li>")
    parts.append("</ul></nav>")
    for path, method, operation in operations:
        parts += _operation(path, method, operation)
    parts.append("<h2>Documents</h2>")
    for name, schema in sorted(schemas.items()):
        parts += _document(name, schema)
    return "".join([*parts, "</main></body></html>\n"])


def _operation(path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f'<section id="{operation["operationId"]}"><h3><span class=method>{method.upper()}</span> '
    yield f"<code>{escape(path)}</code></h3><p>{_prose(operation['summary'])} "
    yield f"{_prose(operation.get('description', ''))}</p><p class=roles>For {escape(_who(operation['security']))}.</p>"
    rows = [
        (
            f"{one['name']} ({one['in']}{'' if one.get('required') else ', optional'})",
            _kind(one["schema"]),
            one["description"],
        )
        for one in operation.get("parameters", [])
    ]
    if "requestBody" in operation:
        body = operation["requestBody"]
        for media, content in body["content"].items():
            optional = "" if body["required"] else ", optional"
            rows.append((f"body ({media}{optional})", _kind(content["schema"]), body["description"]))
    yield _table(rows)
    answers, refusals = [], []
    for status, answer in operation["responses"].items():
        if "$ref" in answer:
            refusals.append(status)
        else:
            contents = answer.get("content", {})
            kinds = "<br>".join(f"{escape(media)}: {_kind(one['schema'])}" for media, one in contents.items())
            answers.append((status, kinds, answer["description"]))
    answers.append((", ".join(refusals), '<a href="#Problem">problem document</a>', "It says why not."))
    yield f"<h4>Answers</h4>{_table(answers)}</section>"


def _who(security: list[dict[str, list[str]]]) -> str:
    roles = [role for one in security for roles in one.values() for role in roles or ["executor"]]
    return " or ".join(dict.fromkeys(roles)) or "anybody"


def _document(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f'<section id="{escape(name)}"><h3>{escape(name)}</h3><p>{_prose(schema.get("description", ""))}</p>'
    required = set(schema.get("required", []))
    rows = [
        (f"{member}{'' if member in required else ' (optional)'}", _kind(kind), kind.get("description", ""))
        for member, kind in schema.get("properties", {}).items()
    ]
    yield f"{_table(rows)}</section>"


def _table(rows: list[tuple[str, str, str]]) -> str:
    """Rows of (text, HTML, text)."""
    made = [f"<tr><th scope=row>{escape(a)}</th><td>{b}</td><td>{_prose(c)}</td></tr>" for a, b, c in rows]
    return f"<table>{''.join(made)}</table>" if rows else ""


def _kind(schema: dict[str, Any]) -> str:
    """A schema in a few words of HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if some := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_kind(one) for one in some)
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in values)
    kind = schema.get("type", "bytes")
    if kind == "array":
        return f"array of {_kind(schema.get('items', {'type': 'anything'}))}"
    inner = schema.get("additionalProperties") or next(iter(schema.get("patternProperties", {}).values()), None)
    if kind == "object" and isinstance(inner, dict):
        return f"object of {_kind(inner)}"
    told = escape(schema.get("contentEncoding", kind))
    if "pattern" in schema:
        told += f" <code>{escape(schema['pattern'])}</code>"
    return told


def _prose(text: str) -> str:
    """Text with its marked code as code."""
    return re.sub(r"``?([^`]+)``?", r"<code>\1</code>", escape(text, quote=False))
