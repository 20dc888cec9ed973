"""A recipe: one TOML file, merged with overrides into a frozen, typed object that knows where each value came from."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from container_src.sft import config as sft
from launcher import gpu, images, leaks
from launcher.compute import check_compute, check_image
from launcher.data.settings import Prepare, Source, check_settings
from launcher.errors import RecipeError
from launcher.home import expand_home
from launcher.output import check_bucket_name
from launcher.recipe_sections import (
    KEYS,
    NESTED,
    OWNERS,
    SECTIONS,
    Code,
    Compute,
    Data,
    ImageChoice,
    ModelSource,
    Output,
    Schedule,
)
from launcher.recipe_values import Given, convert, convert_plain, format_value, recipe_words
from launcher.tables import html_table

SHIPPED_DEFAULT = "qwen2.5-1.5b-medical"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
PATH_STARTS = ("/", "./", "../", "~")  # what can mean nothing but a folder
PATH_KEYS = {"data.train", "data.eval", "data.test", "model.id", "model.adapter"}
# A random model needs a higher rate than a trained one to learn anything in 20 steps; and a CPU would take minutes over
# steps of 32 rows, each padded to 512 tokens.
SMOKE_OVERRIDES: Mapping[str, Any] = {
    "training.max_steps": 20,
    "training.per_device_train_batch_size": 2,
    "training.gradient_accumulation_steps": 4,
    "training.learning_rate": 1e-2,
    "training.logging_steps": 1,
    "training.eval_strategy": "steps",
    "training.eval_steps": 10,
    "training.save_strategy": "steps",
    "training.save_steps": 10,
}


@dataclass(frozen=True)
class Recipe:
    """`origins` maps each dotted key to "default", a file or a flag; `folder` is what relative paths start from."""

    name: str
    folder: Path
    config: sft.TrainConfig = field(default_factory=sft.TrainConfig)
    model: ModelSource = field(default_factory=ModelSource)
    data: Data = field(default_factory=Data)
    prepare: Prepare = field(default_factory=Prepare)
    compute: Compute = field(default_factory=Compute)
    image: ImageChoice = field(default_factory=ImageChoice)
    output: Output = field(default_factory=Output)
    code: Code = field(default_factory=Code)
    schedule: Schedule = field(default_factory=Schedule)
    origins: Mapping[str, str] = field(default_factory=dict)

    def value(self, key: str) -> Any:
        owner, name = KEYS[key]
        if key == "compute.instance":
            return ",".join(self.compute.instances)  # one type is the rule, and reads best as a text
        return self.name if not owner else getattr(getattr(self, owner), name)

    def _repr_html_(self) -> str:
        return html_table(["key", "value", "from"], self.rows())

    def rows(self) -> list[tuple[str, str, str]]:
        """Each key, its value and where it came from; paths in full, so that a printed recipe works anywhere."""
        return [(key, format_value(self._portable(key)), self.origins.get(key, "default")) for key in KEYS]

    def resolve(self, path: str) -> Path:
        """A path of this recipe, which starts at the recipe's folder."""
        return self.folder / expand_home(path)

    def placed(self, source: Source) -> Source:
        """The source by its full path."""
        if source.path and not source.is_remote:
            return dataclasses.replace(source, path=os.path.normpath(self.resolve(source.path)))
        if source.dataset and (place := self.resolve(source.dataset)).is_dir():
            return dataclasses.replace(source, dataset=os.path.normpath(place))
        return source

    def _portable(self, key: str) -> Any:
        value = self.value(key)
        if key in PATH_KEYS and value and not value.startswith("s3://"):
            path = self.resolve(value)
            return os.path.normpath(path) if key != "model.id" or path.is_dir() else value
        if key == "data.sources":
            return tuple(self.placed(source) for source in value)
        if key == "code.files":
            return tuple(os.path.normpath(self.resolve(file)) for file in value)
        return value


def load_recipe(
    source: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    smoke: bool | None = None,
    origins: Mapping[str, str] | None = None,
) -> Recipe:
    """Read a recipe (a path, a shipped name, or None for recipe.toml here, else the shipped one) and merge overrides.

    `smoke` None means: on the local endpoint of a machine without CUDA. `origins` names the flag behind an override.
    """
    path = find_recipe(source)
    given = _read(path)
    _place(given)
    labels = origins or {}
    for key, value in (overrides or {}).items():
        _override(given, key, Given(value, labels.get(key, "override")))
    _drop_sample_rows(path, given, overrides or {})
    _check_keys(given, path)
    for key, item in given.items():
        leaks.refuse(item.value, f"{item.origin}: {key}")
    if _wants_smoke(given, smoke):
        origin = "--smoke" if smoke else "local endpoint without CUDA"
        for key, value in {"model.smoke": True, **SMOKE_OVERRIDES}.items():
            if key not in (overrides or {}):
                given[key] = Given(value, origin)
    return _build(path, given)


def _read(path: Path) -> dict[str, Given]:
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}", hint="Mend that line and try again.") from error
    except OSError as error:
        raise RecipeError(f"{path} could not be read: {error.strerror}") from error
    given: dict[str, Given] = {}
    for section, body in document.items():
        if isinstance(body, dict):
            given.update({key: Given(value, path.name) for key, value in _flatten(section, body)})
        else:
            given[section] = Given(body, path.name)
    return given


def _flatten(section: str, body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in body.items():
        key = f"{section}.{name}"
        if key in NESTED.values() and isinstance(value, dict):
            yield from _flatten(key, value)
        else:
            yield key, value


def _place(given: dict[str, Given]) -> None:
    """`instance = "local"` in a file is a place; the type is the default one."""
    asked = given.get("compute.instance")
    if asked and asked.value == "local":
        given["compute.place"] = Given("local", asked.origin)
        del given["compute.instance"]


def _override(given: dict[str, Given], key: str, item: Given) -> None:
    """An instance given beside the file says the place; "local" leaves the file's type, which the request keeps."""
    if key == "compute.instance":
        given["compute.place"] = Given("local" if item.value == "local" else "aws", item.origin)
        if item.value == "local":
            return
    given[key] = item


def _drop_sample_rows(path: Path, given: dict[str, Given], overrides: Mapping[str, Any]) -> None:
    """Rows of the user's own are not evaluated on a shipped recipe's sample."""
    if "data.train" not in overrides or not path.is_relative_to(shipped_folder()):
        return
    for key in ("data.eval", "data.test"):
        if key in given and key not in overrides:
            given[key] = Given("", "your rows replace the sample's")


def _check_keys(given: Mapping[str, Given], path: Path) -> None:
    for key, item in given.items():
        if key in KEYS:
            continue
        where = str(path) if item.origin == path.name else item.origin
        raise RecipeError(f"{where}: {key} is not a key of a recipe.", hint=_suggest(key))


def _suggest(key: str) -> str:
    if key in SECTIONS:
        return f"{key} is a section: write its keys below [{key}]."
    candidates = [*KEYS, *SECTIONS]
    close = difflib.get_close_matches(key, candidates, n=1, cutoff=0.6)
    if not close:
        last = key.rpartition(".")[2]
        close = [known for known in KEYS if difflib.get_close_matches(last, [known.rpartition(".")[2]], cutoff=0.8)][:1]
    return f"Did you mean {close[0]}?" if close else "`launcher recipe show` lists every key."


def _wants_smoke(given: Mapping[str, Given], smoke: bool | None) -> bool:
    if smoke is not None:
        return smoke
    if "model.smoke" in given:
        return False  # the recipe has said it itself
    place = given.get("compute.place")
    return bool(place and place.value == "local") and not gpu.has_cuda()


def _build(path: Path, given: Mapping[str, Given]) -> Recipe:
    parts: dict[str, dict[str, Any]] = {"config": {}, **{section: {} for section in OWNERS}}
    name = path.stem if path.name != "recipe.toml" else path.resolve().parent.name
    for key, item in given.items():
        owner, field_name = KEYS[key]
        if owner:
            parts[owner][field_name] = convert(key, item)
        else:
            name = convert_plain(key, item, str)
    try:
        config = sft.TrainConfig(**parts["config"])
    except sft.ConfigError as error:
        words = recipe_words(str(error))
        culprit = given.get(words.partition(" ")[0])
        raise RecipeError(f"{culprit.origin if culprit else path}: {words}.") from error
    recipe = Recipe(
        name=name,
        folder=path.resolve().parent,
        config=config,
        origins={"name": path.name, **{key: item.origin for key, item in given.items()}},
        **{section: owner(**parts[section]) for section, owner in OWNERS.items()},
    )
    _check_values(recipe, path)
    return recipe


def _check_values(recipe: Recipe, path: Path) -> None:
    check_compute(recipe.compute, recipe.output.kms_key)
    check_image(recipe.compute, images.find_chosen(recipe.image.version, recipe.image.uri))
    check_bucket_name(recipe.output.bucket)
    model = recipe.config.model_name_or_path
    if not HUB_ID.fullmatch(model) and not recipe.resolve(model).is_dir() and not model.startswith(PATH_STARTS):
        raise RecipeError(
            f"model.id is {model!r}, which is neither a Hub id nor a folder.",
            hint="A Hub id looks like Qwen/Qwen2.5-1.5B.",
        )
    check_settings(recipe.data.sources, recipe.data.filters, recipe.prepare)
    if not recipe.data.train and not recipe.data.sources:
        raise RecipeError(
            f"{path} names no training data.",
            hint='Set train = "train.jsonl" in [data], give --train, or add [[data.sources]] to prepare it from.',
        )


def find_recipe(source: str | Path | None) -> Path:
    """The recipe's file: a path, the name of a shipped one, recipe.toml here, or the shipped default."""
    if source is None:
        here = Path("recipe.toml")
        # an empty one is what the shell makes before `launcher recipe show > recipe.toml` runs
        return (
            here if here.is_file() and here.stat().st_size else shipped_folder() / "recipes" / f"{SHIPPED_DEFAULT}.toml"
        )
    path = Path(source)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(source) in shipped:
        return shipped[str(source)]
    close = difflib.get_close_matches(str(source), shipped, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"Shipped recipes: {', '.join(shipped)}."
    raise RecipeError(f"There is no recipe {source}: neither a file nor a shipped one.", hint=hint)


def shipped_recipes() -> dict[str, Path]:
    return {path.stem: path for path in sorted((shipped_folder() / "recipes").glob("*.toml"))}


def shipped_folder() -> Path:
    """examples/: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "examples"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "examples"
