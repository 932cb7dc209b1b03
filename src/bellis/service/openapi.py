"""The service's interface as an OpenAPI 3.1 description, made of the messages' types."""

from __future__ import annotations

from typing import Any

import msgspec

from bellis.service.messages import Answer, Hello, Join, Joined, Problem, RunStatus, Turn

_PROBLEMS = {
    401: "The token is missing or wrong; nothing changed.",
    404: "There is no such worker: it never joined, or was silent too long.",
    408: "The body did not come in time.",
    409: "This is another run: leave.",
    413: "The body is too large.",
    422: "What was sent can't be; nothing changed.",
    503: "There are too many workers, or too many requests.",
}
_BODY = (408, 413, 422, 503)


def description() -> dict[str, Any]:
    """Return the description, ready to be encoded as JSON."""
    kinds = (Answer, Hello, Join, Joined, Problem, RunStatus, Turn)
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    refs = dict(zip(kinds, schemas, strict=True))
    run = {
        "name": "Bellis-Run",
        "in": "header",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
        "description": "Name of the run that is meant, as `hello` says it.",
    }
    worker = {
        "name": "worker_id",
        "in": "path",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
        "description": "As `Joined` said it.",
    }
    nonce = {
        "name": "nonce",
        "in": "query",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9a-fA-F]{32,64}$"},
        "description": "Something new, to be proven with.",
    }

    def operation(
        summary: str,
        answers: dict[int, type[msgspec.Struct] | None],
        *,
        takes: type[msgspec.Struct] | None = None,
        parameters: tuple[dict[str, Any], ...] = (),
        problems: tuple[int, ...] = (),
    ) -> dict[str, Any]:
        responses = {str(status): _response("Done.", refs[kind] if kind else None) for status, kind in answers.items()}
        responses |= {str(status): _response(_PROBLEMS[status], refs[Problem]) for status in problems}
        found: dict[str, Any] = {"summary": summary, "parameters": list(parameters), "responses": responses}
        if takes is not None:
            found["requestBody"] = {"required": True, "content": {"application/json": {"schema": refs[takes]}}}
        if 401 not in problems:
            found["security"] = []
        return found

    known = (401, 409, 422, 503)
    paths = {
        "/v1/hello": {
            "get": operation(
                "Say which run this is, and prove to know its token.",
                {200: Hello},
                parameters=(nonce,),
                problems=(422, 503),
            )
        },
        "/v1/openapi.json": {"get": operation("This description.", {200: None}, problems=(503,))},
        "/v1/run": {"get": operation("Say how the run goes.", {200: RunStatus}, parameters=(run,), problems=known)},
        "/v1/workers": {
            "post": operation(
                "Join as a worker.", {201: Joined}, takes=Join, parameters=(run,), problems=(401, 409, *_BODY)
            )
        },
        "/v1/workers/{worker_id}": {
            "delete": operation(
                "Leave; what was not reported was not run.",
                {204: None},
                parameters=(run, worker),
                problems=(404, *known),
            )
        },
        "/v1/workers/{worker_id}/turn": {
            "post": operation(
                "Bring reports and take leases; waits for some if there are none.",
                {200: Answer},
                takes=Turn,
                parameters=(run, worker),
                problems=(401, 404, 409, *_BODY),
            )
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "bellis service", "version": "1", "description": "A run, as its workers see it."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "The run's token."}},
        },
        "security": [{"token": []}],
    }


def _response(text: str, schema: dict[str, Any] | None) -> dict[str, Any]:
    if schema is None:
        return {"description": text}
    return {"description": text, "content": {"application/json": {"schema": schema}}}
