"""Where a path starts: in a recipe at its folder, on the command line here; and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.cli import main, make_parser, recipes
from launcher.cli.recipes import load_recipe_from
from launcher.errors import RecipeError
from launcher.plan import make_plan
from launcher.recipe import Recipe, load_recipe


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a command is given in, with an adapter below it."""
    adapter = tmp_path / "runs" / "first"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def given(*words: str) -> Recipe:
    return load_recipe_from(make_parser().parse_args(["plan", "tinyllama-chatdoctor", *words]))


@pytest.mark.parametrize("written", ["runs/first", "./runs/first/", "runs/../runs/first"])
def test_an_adapter_given_by_set_starts_here(here: Path, written: str) -> None:
    plan = make_plan(given("--set", f"model.adapter={written}"))
    (channel,) = [channel for channel in plan.channels if channel.name == "adapter"]
    assert [upload.path for upload in channel.uploads] == [here / "runs" / "first" / "adapter_config.json"]
    assert plan.config.adapter_source == str(here / "runs" / "first")


def test_every_path_given_by_set_starts_here(here: Path) -> None:
    recipe = given(
        *("--set", "data.train=rows.jsonl", "--set", "data.eval=", "--set", 'code.files=["mine.py"]'),
        *("--set", "model.id=runs/first"),
    )
    assert recipe.data.train == str(here / "rows.jsonl")
    assert recipe.data.eval == ""
    assert recipe.code.files == (str(here / "mine.py"),)
    assert recipe.config.model_name_or_path == str(here / "runs" / "first")


def test_what_is_no_path_stays_as_it_is(here: Path) -> None:
    recipe = given("--set", "model.adapter=s3://bucket/adapter/", "--set", "model.id=org/model")
    assert (recipe.model.adapter, recipe.config.model_name_or_path) == ("s3://bucket/adapter/", "org/model")
    assert given().model.adapter == ""


def test_a_path_in_the_recipe_starts_at_the_recipe(here: Path, write_rows: Any) -> None:
    (here / "deep").mkdir()
    write_rows("deep/rows.jsonl", [{"text": "one two three four"}])
    (here / "deep" / "my.toml").write_text('[data]\ntrain = "rows.jsonl"\n[model]\nadapter = "../runs/first"\n')
    plan = make_plan(load_recipe(here / "deep" / "my.toml"))
    assert plan.config.adapter_source == str(here / "runs" / "first")


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("runs/absent", "model.adapter: {here}/runs/absent does not exist"),
        ("runs/../absent", "model.adapter: {here}/absent does not exist"),
        ("runs/first/adapter_config.json", "model.adapter: {here}/runs/first/adapter_config.json is not a folder"),
        ("runs", "model.adapter: {here}/runs has no adapter_config.json"),
    ],
)
def test_a_wrong_adapter_is_named_in_full(here: Path, written: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make_plan(given("--set", f"model.adapter={written}"))
    assert caught.value.message.startswith(says.format(here=here))
    assert "launcher fetch" in str(caught.value.hint)
    assert "Hub id" not in str(caught.value.hint)


TOO_LONG = "q" * 3000


@pytest.mark.parametrize(
    "words",
    [
        ("plan", TOO_LONG),
        ("plan", "--model", TOO_LONG),
        ("plan", "--train", TOO_LONG),
        ("plan", "--set", f"model.adapter={TOO_LONG}"),
        ("plan", "--set", f'code.files=["{TOO_LONG}"]'),
        ("plan", "--train", "", "--set", f'data.sources=[{{path="{TOO_LONG}"}}]'),
        ("plan", "--train", "", "--set", f'data.sources=[{{dataset="{TOO_LONG}"}}]'),
        ("recipe", "show", "--model", TOO_LONG),
        ("check", TOO_LONG),
        ("preview", "--train", TOO_LONG),
        ("compare", TOO_LONG),
        ("doctor", TOO_LONG),
        ("submit", "--instance", "local", "--eval", TOO_LONG),
        ("schedule", "create", TOO_LONG, "--rate", "1d"),
        ("plan", "--train", "~no-such-user/rows.jsonl"),
        ("plan", "--model", "~no-such-user/model"),
    ],
)
def test_a_path_that_the_system_refuses_is_a_sentence_of_two_lines(
    here: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and len(said.splitlines()) == 2
    assert len(said) < 600


def test_an_error_of_the_network_or_of_ours_is_not_taken_for_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: Any) -> int:
        raise error

    monkeypatch.setattr(recipes, "run_plan", fail)
    for error in (ConnectionRefusedError(111, "Connection refused"), FileNotFoundError(2, "No such file", "ours.toml")):
        with pytest.raises(type(error)):
            main(["plan"])


def test_a_new_adapter_has_no_source(here: Path) -> None:
    assert make_plan(given()).config.adapter_source == ""
