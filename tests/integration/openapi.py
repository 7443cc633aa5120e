"""Is a document a valid OpenAPI 3.1 one? What the specification demands of the parts that we use, written out.

The official schema is not in any package that the tests depend on, and they do not go to the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema

Node = Mapping[str, Any]

METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
ALLOWED = {
    "document": {"openapi", "info", "servers", "paths", "webhooks", "components", "security", "tags", "externalDocs",
                 "jsonSchemaDialect"},
    "operation": {"tags", "summary", "description", "externalDocs", "operationId", "parameters", "requestBody",
                  "responses", "callbacks", "deprecated", "security", "servers"},
    "parameter": {"name", "in", "description", "required", "deprecated", "schema", "style", "explode", "example",
                  "examples", "allowEmptyValue"},
    "response": {"description", "headers", "content", "links"},
    "body": {"description", "content", "required"},
    "media type": {"schema", "example", "examples", "encoding"},
}  # fmt: skip


def complaints(document: Node) -> list[str]:
    """What is wrong with it, each with its place; empty when it is valid."""
    return list(_document(document))


def _unknown(node: Node, kind: str, where: str) -> Iterator[str]:
    for name in node.keys() - ALLOWED[kind]:
        if not name.startswith("x-"):
            yield f"{where}: a {kind} has no field {name}"


def _document(document: Node) -> Iterator[str]:
    yield from _unknown(document, "document", "#")
    if not re.fullmatch(r"3\.1\.\d+", str(document.get("openapi"))):
        yield "#: not 3.1"
    info = document.get("info", {})
    if not isinstance(info.get("title"), str) or not isinstance(info.get("version"), str):
        yield "info: needs title and version"
    operations: list[str] = []
    for path, item in document.get("paths", {}).items():
        if not path.startswith("/"):
            yield f"{path}: begins with no slash"
        for method in item:
            if method not in METHODS:
                yield f"{path}: {method} is no method"
                continue
            operations.append(item[method].get("operationId", f"{method} {path}"))
            yield from _operation(item[method], path, f"{method} {path}", document)
    if len(set(operations)) != len(operations):
        yield "an operationId stands twice"
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        if not re.fullmatch(r"[a-zA-Z0-9._-]+", name):
            yield f"components: {name} is no name"
        yield from _schema(schema, f"components {name}", document)


def _operation(operation: Node, path: str, where: str, document: Node) -> Iterator[str]:
    yield from _unknown(operation, "operation", where)
    named = [(item["name"], item["in"]) for item in operation.get("parameters", [])]
    if len(set(named)) != len(named):
        yield f"{where}: a parameter stands twice"
    in_path = {name for name, place in named if place == "path"}
    if in_path != set(re.findall(r"{([^}]+)}", path)):
        yield f"{where}: its path parameters are {in_path}"
    for item in operation.get("parameters", []):
        yield from _parameter(item, where, document)
    if "requestBody" in operation:
        body = operation["requestBody"]
        yield from _unknown(body, "body", where)
        yield from _content(body["content"], where, document)
    if not operation.get("responses"):
        yield f"{where}: no responses"
    for status, response in operation.get("responses", {}).items():
        yield from _response(status, response, f"{where} {status}", document)


def _parameter(item: Node, where: str, document: Node) -> Iterator[str]:
    yield from _unknown(item, "parameter", where)
    if item["in"] not in ("path", "query", "header", "cookie"):
        yield f"{where}: a parameter in {item['in']}"
    if item["in"] == "path" and item.get("required") is not True:
        yield f"{where}: the path parameter {item['name']} is not required"
    if "schema" not in item:
        yield f"{where}: the parameter {item['name']} has no schema"
    yield from _schema(item.get("schema", {}), f"{where} {item['name']}", document)


def _response(status: str, response: Node, where: str, document: Node) -> Iterator[str]:
    if not re.fullmatch(r"default|[1-5](\d\d|XX)", status):
        yield f"{where}: no status"
    if not isinstance(response.get("description"), str):
        yield f"{where}: no description"
    yield from _unknown(response, "response", where)
    yield from _content(response.get("content", {}), where, document)
    for name, header in response.get("headers", {}).items():
        yield from _schema(header.get("schema", {}), f"{where} {name}", document)


def _content(content: Node, where: str, document: Node) -> Iterator[str]:
    for name, media in content.items():
        if "/" not in name:
            yield f"{where}: {name} is no media type"
        yield from _unknown(media, "media type", where)
        yield from _schema(media.get("schema", {}), where, document)


def _schema(schema: Any, where: str, document: Node) -> Iterator[str]:
    """A schema of draft 2020-12, the dialect of OpenAPI 3.1, whose every reference leads somewhere."""
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as exc:
        yield f"{where}: {exc.message}"
    root = schema if isinstance(schema, dict) and "$id" in schema else document
    for reference in _references(schema):
        if not _leads_somewhere(reference, root):
            yield f"{where}: {reference} leads nowhere"


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from _references(child)
    elif isinstance(node, list):
        for child in node:
            yield from _references(child)


def _leads_somewhere(reference: str, root: Node) -> bool:
    if not reference.startswith("#/"):
        return reference == "#"
    node: Any = root
    for part in reference[2:].split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(node, dict) or key not in node:
            return False
        node = node[key]
    return True
