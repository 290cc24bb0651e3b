"""What the server says of itself: the OpenAPI description, and a page to read it and to try it."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from nas.serving.limits import Limits

_EXAMPLE = "cell example { state h: vec; z = sigmoid(lin(x, h)); h' = lerp(z, h, tanh(lin(x, h))); out h' }"


def open_api(limits: Limits, version: str, card: Mapping[str, Any]) -> dict[str, Any]:
    """The description of the server in the form of OpenAPI 3.1, as JSON can hold it."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "recell: how good will this cell be?",
            "version": version,
            "description": f"Predictions of a model that was fitted on {_fitted_on(card)}. Lower means are better.",
        },
        "paths": {
            "/predict": {
                "post": {
                    "summary": "Say how good cells will be, before they are trained",
                    "requestBody": {"required": True, "content": _json(_request(limits))},
                    "responses": {
                        "200": {
                            "description": "One object for each cell, in order: an answer, or what is wrong with it",
                            "content": _json(
                                {"type": "array", "items": {"oneOf": [_ref("Answer"), _ref("Fault")]}}
                            ),
                        },
                        "400": _failure("The body is not of this form"),
                        "408": _failure(f"The body did not arrive within {limits.body_seconds:g} seconds"),
                        "413": _failure(
                            f"Over {limits.body} bytes, {limits.cells} cells, or {limits.text} characters of a cell"
                        ),
                        "415": _failure("The body is compressed"),
                        "503": _failure("Too many new cells wait, or they take too long: ask again later"),
                    },
                }
            },
            "/card": {"get": _get("What the predictor was fitted on, and how good it is on held-out cells")},
            "/healthz": {"get": _get("That the server answers, and how many cells wait")},
            "/openapi.json": {"get": _get("This description")},
        },
        "components": {"schemas": {"Answer": _ANSWER, "Fault": _FAULT, "Refusal": _REFUSAL}},
    }


def docs_page(described: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """One HTML page that needs nothing else: a form to try /predict, each path, the schemas, and the card."""
    info = described["info"]
    paths = "".join(
        f"<h3>{method.upper()} {html.escape(path)}</h3><p>{html.escape(what['summary'])}.</p>"
        f"<table>{_rows(what['responses'])}</table>"
        for path, methods in described["paths"].items()
        for method, what in methods.items()
    )
    shown = html.escape(
        json.dumps({name: described["components"]["schemas"][name] for name in _SHOWN}, indent=1)
    )
    return _PAGE.format(
        title=html.escape(info["title"]),
        version=html.escape(info["version"]),
        about=html.escape(info["description"]),
        example=html.escape(_EXAMPLE),
        paths=paths,
        schemas=shown,
        card=html.escape(json.dumps(dict(card), indent=1)),
    )


_SHOWN = ("Answer", "Fault")

_NUMBER = {"type": "number"}
_ANSWER = {
    "type": "object",
    "required": [
        "digest",
        "mean",
        "std",
        "interval",
        "out_of_distribution",
        "novelty",
        "diverges",
        "fitted",
        "trained",
        "task",
        "unit",
    ],
    "properties": {
        "digest": {
            "type": "string",
            "description": "Of the class of the cell: 64 hex digits, equal for cells that compute the same",
        },
        "mean": {**_NUMBER, "description": "The score to expect, in `unit`; lower is better"},
        "std": {**_NUMBER, "description": "Of the error of the mean"},
        "interval": {
            "type": "array",
            "items": _NUMBER,
            "minItems": 2,
            "maxItems": 2,
            "description": "Holds the score of 90 % of cells like those that were fitted: mean -+ 1.645 std",
        },
        "out_of_distribution": {
            "type": "boolean",
            "description": "The cell is unlike all that were fitted: trust the rest less",
        },
        "novelty": {**_NUMBER, "description": "How unlike; above 1 is out of distribution"},
        "diverges": {
            "type": ["number", "null"],
            "description": "The chance that training fails; null where no fitted cell failed",
        },
        "fitted": {
            "type": ["boolean", "null"],
            "description": "Whether the predictor was fitted on this cell; null where it does not know",
        },
        "trained": {
            "type": ["number", "null"],
            "description": "What such a cell reached, in `unit`; null for others, and where training failed",
        },
        "task": {"type": ["string", "null"], "description": "What the cells were trained on"},
        "unit": {"type": ["string", "null"], "description": "Of mean, std and interval"},
    },
}
_FAULT = {
    "type": "object",
    "required": ["error", "line", "column"],
    "properties": {
        "error": {"type": "string"},
        "line": {
            "type": ["integer", "null"],
            "description": "Counted from 1; null where no place is to blame",
        },
        "column": {"type": ["integer", "null"]},
    },
}
_REFUSAL = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


def _fitted_on(card: Mapping[str, Any]) -> str:
    task = f" on {card['task']}" if card.get("task") else ""
    return f"{card.get('cells', 'some')} cells{task}"


def _request(limits: Limits) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["cells"],
        "additionalProperties": False,
        "properties": {
            "cells": {
                "type": "array",
                "maxItems": limits.cells,
                "items": {"type": "string", "maxLength": limits.text, "description": "The text of a cell"},
                "examples": [[_EXAMPLE]],
            }
        },
    }


def _json(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": dict(schema)}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _failure(description: str) -> dict[str, Any]:
    return {"description": description, "content": _json(_ref("Refusal"))}


def _get(summary: str) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": {"description": "A JSON object", "content": _json({"type": "object"})}},
    }


def _rows(responses: Mapping[str, Any]) -> str:
    return "".join(
        f"<tr><td>{html.escape(code)}</td><td>{html.escape(what['description'])}</td></tr>"
        for code, what in responses.items()
    )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.2rem; margin-top: 2rem; }}
h3 {{ font: bold 1rem ui-monospace, monospace; }}
textarea {{ width: 100%; box-sizing: border-box; font: 0.9rem ui-monospace, monospace; }}
pre {{ background: #f4f4f4; padding: 0.8rem; overflow-x: auto; font-size: 0.85rem; }}
td {{ padding: 0 1rem 0 0; vertical-align: top; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #181818; color: #ddd; }} pre {{ background: #242424; }} }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{about} Version {version}. Machines read <a href="/openapi.json">/openapi.json</a>.</p>
<h2>Try it</h2>
<form id="form">
<p><label for="cell">The text of a cell</label></p>
<textarea id="cell" rows="6">{example}</textarea>
<p><button>POST /predict</button></p>
</form>
<pre id="answer" aria-live="polite">The answer will stand here.</pre>
<h2>Paths</h2>
{paths}
<h2>Schemas of answers</h2>
<pre>{schemas}</pre>
<h2>What it was fitted on</h2>
<pre>{card}</pre>
<script>
document.getElementById("form").addEventListener("submit", async (event) => {{
  event.preventDefault();
  const answer = document.getElementById("answer");
  answer.textContent = "...";
  try {{
    const body = JSON.stringify({{cells: [document.getElementById("cell").value]}});
    const reply = await fetch("/predict", {{method: "POST", headers: {{"content-type": "application/json"}}, body}});
    answer.textContent = reply.status + " " + JSON.stringify(await reply.json(), null, 1);
  }} catch (error) {{
    answer.textContent = String(error);
  }}
}});
</script>
</body>
</html>
"""
