"""Documentation of the REST API, written from its OpenAPI description.

python -m detector.web.api_docs docs/api.md
"""

import sys
from pathlib import Path

from detector.web.api import openapi


def render() -> str:
    """Return docs/api.md as text."""
    import jinja2

    description = openapi()
    schemas = description["components"]["schemas"]
    operations = [
        (path, method, _operation(operation, schemas))
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    documented = [
        (name, {"description": _line(schema["description"]), "fields": _fields(schema)})
        for name, schema in schemas.items()
        if "description" in schema
    ]
    template = (Path(__file__).parent / "templates" / "api.md").read_text("utf-8")
    template = jinja2.Template(
        template, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    return template.render(info=description["info"], operations=operations, schemas=documented)


def _operation(operation, schemas):
    content = operation.get("requestBody", {}).get("content", {})
    fields = []
    for body in content.values():
        schema = schemas[body["schema"]["$ref"].rsplit("/", 1)[1]]
        required = schema.get("required", [])
        for name, field in schema["properties"].items():
            default = "required" if name in required else f"`{str(field.get('default', 'none')).lower()}`"
            fields.append((name, _type(field), default, field["description"]))
    answers = [(status, _answer(answer)) for status, answer in operation["responses"].items()]
    return {"description": operation["description"], "fields": fields, "answers": answers}


def _answer(answer):
    """Return what a response holds, in words."""
    (kind, content), *_ = answer.get("content", {"nothing": {}}).items()
    schema = _type(content["schema"]) if kind == "application/json" else kind
    return schema if answer["description"] == "Successful Response" else f"{schema}: {answer['description']}"


def _fields(schema):
    return [(name, _type(field), field["description"]) for name, field in schema["properties"].items()]


def _type(field):
    """Return the type of a field in words."""
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(map(_type, field["anyOf"]))
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    is_file = field.get("format") == "binary" or "contentMediaType" in field
    return "file" if is_file else field.get("type", "any")


def _line(text):
    return " ".join(text.split())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), "utf-8")
