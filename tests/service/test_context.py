"""A context comes back from the environment as it was, whatever is in it; what is none is told apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bellis
from bellis.errors import ContextError
from bellis.service.context import Context

TEXTS = st.text(st.characters(), max_size=20)
CONTEXTS = st.dictionaries(TEXTS, TEXTS, max_size=6).map(Context.of)


@given(CONTEXTS)
def test_any_character_survives_in_either_form(context: Context) -> None:
    assert Context.parse(context.to_env()) == context
    if context:  # a text of no pairs says nothing of what it is
        assert Context.parse(context.to_daisy()) == context


@given(CONTEXTS)
def test_what_goes_into_the_environment_is_plain_text(context: Context) -> None:
    for value in context.environment().values():
        assert value.isascii()
        assert value.isprintable()
    assert not set(context.to_daisy()) & set(" ,;'\"{}$\\&|<>()")


def test_a_child_process_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    context = Context(hostname="::1", port=1, task_id="ü: = \n\0", token="t" * 32)
    code = "import bellis, json; print(json.dumps(dict(bellis.Context.from_env())))"
    for name, value in context.environment().items():
        monkeypatch.setenv(name, value)
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=30).stdout
        assert json.loads(found) == dict(context)
        monkeypatch.delenv(name)


def test_it_is_used_as_in_daisy(monkeypatch: pytest.MonkeyPatch) -> None:
    context = bellis.Context(hostname="node", port=8000)
    context["worker_id"] = 3
    assert (context["port"], context["worker_id"], context.get("none"), "port" in context) == ("8000", "3", None, True)
    copy = context.copy()
    copy["port"] = 1
    assert context["port"] == "8000"
    monkeypatch.setenv(Context.ENV_VARIABLE, context.to_env())
    monkeypatch.setenv("DAISY_CONTEXT", "hostname=other")
    assert Context.from_env() == context


def test_the_variable_that_a_script_set_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, meant = Context(task_id="ours", token="t"), Context(task_id="meant", token="t")
    for name, text in (
        ("DAISY_CONTEXT", meant.to_env()),
        ("DAISY_CONTEXT", meant.to_daisy()),
        ("BELLIS_CONTEXT", meant.to_env()),
    ):
        for each, value in ours.environment().items():
            monkeypatch.setenv(each, value)
        assert Context.from_env() == ours
        monkeypatch.setenv(name, text)
        assert Context.from_env() == meant


def test_a_context_that_a_script_changed_is_the_scripts() -> None:
    ours = Context(task_id="ours", token="t")
    for text in ours.environment().values():
        assert Context.parse(text) == ours
        changed = Context.parse(text.replace("ours", "meant"))
        assert changed["task_id"] == "meant"


def test_what_daisy_wrote_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(Context.ENV_VARIABLE, raising=False)
    monkeypatch.setenv("DAISY_CONTEXT", "logdir=./daisy_logs:hostname=10.0.0.1:port=44095:task_id=a%3Ab c:worker_id=0")
    context = Context.from_env()
    assert (context["hostname"], int(context["port"]), context["task_id"]) == ("10.0.0.1", 44095, "a:b c")


def test_a_token_is_never_shown() -> None:
    context = Context(token="very-secret", port=1)
    assert "very-secret" not in f"{context} {context!r}"


@pytest.mark.parametrize(
    "text", ["{", '{"a": [1]}', '{"a": null}', "hostname", "a=b=c", "a=b:", "a=%ff", "{" * 100_000]
)
def test_what_is_no_context_is_an_error_that_names_the_variable(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.delenv(Context.ENV_VARIABLE, raising=False)
    monkeypatch.setenv("DAISY_CONTEXT", text)
    with pytest.raises(ContextError, match="variable DAISY_CONTEXT is no context"):
        Context.from_env()


def test_no_context_is_an_error_as_in_daisy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (Context.ENV_VARIABLE, "DAISY_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(KeyError) as caught:
        Context.from_env()
    assert str(caught.value).startswith("this process has no context: neither BELLIS_CONTEXT nor DAISY_CONTEXT")
    assert "has no parameter, or its task says worker_function=True" in str(caught.value)
    assert Context.ENV_VARIABLE not in os.environ
