"""Recipes: merged, typed, refused with the key and the nearest known one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from launcher import recipe as recipes
from launcher.cli.recipes import parse_setting
from launcher.errors import RecipeError
from launcher.plan import find_prepared, find_row_files, make_plan
from launcher.recipe import load_recipe, shipped_recipes


@pytest.fixture
def write_recipe(tmp_path: Path):
    def write(text: str, name: str = "my.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


MINIMAL = 'name = "mine"\n[data]\ntrain = "train.jsonl"\n'


def test_values_come_from_default_file_and_flag_and_say_so(write_recipe) -> None:
    path = write_recipe(MINIMAL + "[lora]\nr = 4\nalpha = 8\n")
    recipe = load_recipe(path, {"lora.r": 2}, origins={"lora.r": "--set"})
    assert (recipe.config.lora_r, recipe.config.lora_alpha, recipe.config.lora_dropout) == (2, 8, 0.05)
    assert recipe.origins["lora.r"] == "--set"
    assert recipe.origins["lora.alpha"] == "my.toml"
    assert "lora.dropout" not in recipe.origins


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MINIMAL + "[lora]\nrr = 4\n", "Did you mean lora.r?"),
        (MINIMAL + "[trainig]\nseed = 1\n", "training.seed"),
        (MINIMAL + "[training]\nlearning_rat = 1.0\n", "training.learning_rate"),
        (MINIMAL + '[lora]\nr = "many"\n', "lora.r is 'many'; it must be of type int"),
        (MINIMAL + "[lora]\nr = true\n", "must be of type int"),
        (MINIMAL + "[lora]\nr = 0\n", "lora.r is 0; it must be above 0"),
        (MINIMAL + '[training]\noptim = "sgd"\n', "must be one of paged_adamw_32bit"),
        (MINIMAL + "[compute]\nspot = 1\n", "compute.spot is 1; it must be of type bool"),
        (MINIMAL + '[compute]\nmax_runtime = "soon"\n', "such as 90m"),
        (MINIMAL + '[compute]\ninstance = "g5.xlarge"\n', "not a SageMaker instance type"),
        (MINIMAL + '[compute]\nspot = true\nmax_runtime = "2h"\nmax_wait = "1h"\n', "less than the 7200 s"),
        (MINIMAL + '[compute]\nmax_wait = "1h"\n', "for spot jobs only"),
        (MINIMAL + "[lora\nr = 4\n", "not valid TOML"),
        ('name = "mine"\n', "names no training data"),
        (MINIMAL + '[lora]\nr = "8"\n', "lora.r is '8'; it must be of type int"),
        (MINIMAL + '[model]\nid = "a b"\n', "neither a Hub id nor a folder"),
        ('data = "rows.jsonl"\n', "data is a section"),
        (MINIMAL + '[image]\nversion = "1.0"\n', ""),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_key_and_a_fix(write_recipe, text: str, says: str) -> None:
    path = write_recipe(text)
    if not says:  # an unknown image is known to be unknown when the plan picks it
        assert load_recipe(path).image.version == "1.0"
        return
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_recipe_names_the_nearest_shipped_one() -> None:
    with pytest.raises(RecipeError, match="Did you mean tinyllama-chatdoctor"):
        load_recipe("tinylama-chatdoctor")


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes(b'name = "caf\xe9"\n')
    with pytest.raises(RecipeError, match="not valid TOML"):
        load_recipe(path)


def test_local_is_a_place_and_the_instance_type_stays(write_recipe) -> None:
    path = write_recipe(MINIMAL + '[compute]\ninstance = "ml.g6.xlarge"\n')
    recipe = load_recipe(path, {"compute.instance": "local"}, origins={"compute.instance": "--instance"})
    assert (recipe.compute.place, recipe.compute.instance) == ("local", "ml.g6.xlarge")


def test_a_flag_for_a_real_type_leaves_the_local_place_of_the_file(write_recipe) -> None:
    path = write_recipe(MINIMAL + '[compute]\ninstance = "local"\n')
    assert load_recipe(path).compute.place == "local"
    recipe = load_recipe(path, {"compute.instance": "ml.g5.xlarge"}, origins={"compute.instance": "--instance"})
    assert (recipe.compute.place, recipe.compute.instance) == ("aws", "ml.g5.xlarge")


def test_smoke_is_implied_on_the_local_endpoint_without_cuda(write_recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_recipe(MINIMAL)
    monkeypatch.setattr(recipes.gpu, "has_cuda", lambda: False)
    implied = load_recipe(path, {"compute.instance": "local"})
    assert implied.config.smoke
    assert implied.config.max_steps == 20
    assert "without CUDA" in implied.origins["model.smoke"]
    assert not load_recipe(path, {"compute.instance": "local"}, smoke=False).config.smoke
    monkeypatch.setattr(recipes.gpu, "has_cuda", lambda: True)
    assert not load_recipe(path, {"compute.instance": "local"}).config.smoke


def test_smoke_gives_way_to_what_the_user_sets(write_recipe) -> None:
    recipe = load_recipe(write_recipe(MINIMAL), {"training.max_steps": 3}, smoke=True)
    assert (recipe.config.max_steps, recipe.config.smoke) == (3, True)


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_loads_and_its_data_is_there(name: str) -> None:
    files = find_row_files(recipe := load_recipe(name), find_prepared(recipe))
    assert files["train"].is_file() and files["eval"].is_file()


def test_recipe_show_prints_toml_that_loads_to_the_same_values(
    write_recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    from launcher.console import print_recipe

    recipe = load_recipe(write_recipe(MINIMAL + '[code]\nfiles = ["a.py"]\n[compute]\nmax_runtime = "90m"\n'))
    print_recipe(recipe)
    printed = capsys.readouterr().out
    again = load_recipe(write_recipe(printed, "again.toml"))
    assert [row[:2] for row in again.rows()] == [row[:2] for row in recipe.rows()]
    assert tomllib.loads(printed)["compute"] == {"max_runtime": 5400}
    assert "# volume_gb = 100" in printed


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("lora.r=8", "lora.r", 8),
        ("model.id=a/b", "model.id", "a/b"),
        ("compute.spot=true", "compute.spot", True),
        ('lora.target_modules=["q_proj"]', "lora.target_modules", ["q_proj"]),
    ],
)
def test_settings_are_read_as_toml_where_they_are(text: str, key: str, value: object) -> None:
    assert parse_setting(text) == (key, value)


def test_a_setting_without_a_value_is_refused() -> None:
    with pytest.raises(RecipeError, match="--set lora.r=8"):
        parse_setting("lora.r")


def test_own_rows_are_not_evaluated_on_the_sample(write_rows) -> None:
    train = str(write_rows("train.jsonl", [{"text": "mine"}]))
    assert load_recipe("qwen2.5-1.5b-medical", {"data.train": train}).data.eval == ""
    both = load_recipe("qwen2.5-1.5b-medical", {"data.train": train, "data.eval": train})
    assert both.data.eval == train


def test_a_recipe_of_ones_own_keeps_its_eval_rows(write_recipe) -> None:
    path = write_recipe(MINIMAL + 'eval = "eval.jsonl"\n')
    assert load_recipe(path, {"data.train": "other.jsonl"}).data.eval == "eval.jsonl"


def test_the_empty_file_a_shell_makes_is_no_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").touch()
    assert load_recipe().name == recipes.SHIPPED_DEFAULT


def test_a_mistake_on_the_command_line_is_not_blamed_on_the_file(write_recipe) -> None:
    with pytest.raises(RecipeError, match="--set: training.learning_rate"):
        load_recipe(
            write_recipe(MINIMAL), {"training.learning_rate": -1.0}, origins={"training.learning_rate": "--set"}
        )


@pytest.mark.parametrize("setting", ["load_best_model_at_end = true", "early_stopping_patience = 2"])
def test_a_plan_that_goes_by_the_eval_loss_wants_eval_rows(write_recipe, write_rows, setting: str) -> None:
    rows = [{"prompt": f"question {number}", "completion": "answer"} for number in range(30)]
    write_rows("train.jsonl", rows)
    write_rows("test.jsonl", [{"prompt": "another question", "completion": "answer"}])
    path = write_recipe(f'{MINIMAL}test = "test.jsonl"\n[training]\n{setting}\n')
    with pytest.raises(RecipeError, match="go by the eval loss, and there are no eval rows") as caught:
        make_plan(load_recipe(path))
    assert "leave both settings out" in caught.value.hint
