"""make_plan(recipe) -> Plan: everything a submit will do, decided from files alone, before anything is sent."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from container_src.sft import config as sft
from launcher import base_model, images, instances
from launcher.bundle import Bundle, digest_files, make_bundle, source_folder
from launcher.compute import compute_notes
from launcher.data.channels import Channel, folder_channel, s3_channel
from launcher.data.checking import Checked, Subject, check
from launcher.data.prepared import find_or_prepare
from launcher.data.preparing import Prepared
from launcher.data.settings import CHANNELS
from launcher.errors import DataError, RecipeError, RunError
from launcher.isolation import check_isolation, network_notes
from launcher.job_names import make_stamp
from launcher.progress import Track, untracked
from launcher.recipe import PATH_STARTS, Recipe
from launcher.tables import html_table

JOB_NAME_LIMIT = 63
RUN_NAME_LIMIT = JOB_NAME_LIMIT - len("-20260101-000000")
KEY_DIGEST = 8  # letters
RUN_NAME = re.compile(r"[a-z0-9](-*[a-z0-9])*")


@dataclass(frozen=True)
class Plan:
    """What a submit will do. Keys are below the site's bucket and the recipe's prefix."""

    recipe: Recipe
    run: str
    stamp: str
    image: images.Image | None
    channels: tuple[Channel, ...]
    bundle: Bundle
    config: sft.TrainConfig
    gpus: int
    checkpoints: str = ""
    notes: tuple[str, ...] = ()

    @property
    def job_name(self) -> str:
        return f"{self.run}-{self.stamp}"

    @property
    def source_key(self) -> str:
        return f"source/{self.bundle.digest[:16]}/sourcedir.tar.gz"

    @property
    def checkpoint_key(self) -> str:
        """One folder per start from scratch: a fresh start can never meet an older one's checkpoints."""
        return f"checkpoints/{self.run}/{self.stamp}/"

    def scheduled(self, name: str, stamp: str, channels: tuple[Channel, ...]) -> Plan:
        """The same plan as a schedule sends it: named by each execution, its data where it is published."""
        return dataclasses.replace(self, run=_check_run_name(name), stamp=stamp, channels=channels, checkpoints="")

    @property
    def is_distributed(self) -> bool:
        return self.gpus * self.recipe.compute.count > 1

    def resuming(self, checkpoints: str) -> Plan:
        """The same plan, going on from the checkpoints of an earlier job, wherever in S3 they lie."""
        return dataclasses.replace(self, checkpoints=checkpoints)

    def restamped(self, now: datetime | None = None) -> Plan:
        """The same plan for another job of its run: a job's name is given out once."""
        return dataclasses.replace(self, stamp=make_stamp(now))

    def _repr_html_(self) -> str:
        return html_table(["plan", self.job_name], self.rows())

    def rows(self) -> list[tuple[str, str]]:
        """The plan as people read it."""
        compute, config = self.recipe.compute, self.config
        image = (
            f"pytorch {self.image.version}, transformers {self.image.transformers}"
            if self.image
            else self.recipe.image.uri
        )
        steps = f"{config.max_steps} steps" if config.max_steps > 0 else f"{config.num_train_epochs:g} epochs"
        batch = config.effective_batch_size * self.gpus * compute.count
        rows = [
            ("run", self.run),
            ("model", config.model_name_or_path + (" (stand-in of its family)" if config.smoke else "")),
            ("instance", self._instance_words()),
            ("image", image),
            *[(f"channel {channel.name}", channel.words()) for channel in self.channels],
            ("bundle", f"{len(self.bundle.names)} files, {len(self.bundle.content):,} bytes -> {self.source_key}"),
            ("training", f"{steps}, {batch} rows a step, {config.max_length} tokens a row, {config.optim}"),
            ("adapter", f"r {config.lora_r}, alpha {config.lora_alpha}, {config.lora_target_modules}"),
            ("checkpoints", self.checkpoints or self.checkpoint_key),
            ("output", f"output/{self.job_name}/output/model.tar.gz"),
            (
                "limit",
                f"{compute.max_runtime_s:,} s"
                + (f", spot, waits at most {wait_s(self.recipe):,} s" if compute.spot else ""),
            ),
        ]
        return rows + [("note", note) for note in self.notes]

    def _instance_words(self) -> str:
        compute = self.recipe.compute
        count = f"{compute.count} x " if compute.count > 1 else ""
        where = "this machine, in place of " if compute.place == "local" else ""
        known = instances.find_instance(compute.instance)
        gpus = f" ({known.gpus} x {known.gpu} of {known.gpu_memory_gb} GB)" if known else ""
        others = "".join(f", else {name}" for name in compute.instances[1:])
        return f"{where}{count}{compute.instance}{gpus}{others}"


def make_plan(
    recipe: Recipe, name: str | None = None, *, now: datetime | None = None, track: Track = untracked
) -> Plan:
    """Prepare and check every row, pack the bundle, name everything. Needs no network and no credentials."""
    run = _as_run_name(recipe.name) if name is None else _check_run_name(name)
    base_model.check_settings(recipe)
    prepared = find_prepared(recipe, track)
    checked = check(find_subject(recipe, prepared, network=False), tokens=not recipe.config.smoke, track=track)
    checked.refuse()
    channels = (*checked.report.channels, *_model_channels(recipe))
    check_isolation(recipe, any(channel.name == "model" for channel in channels))
    bundle = make_bundle(source_folder(), _own_code(recipe))
    gpus = _count_gpus(recipe)
    image = None if recipe.image.uri else images.image_named(recipe.image.version)
    return Plan(
        recipe=recipe,
        run=run,
        stamp=make_stamp(now),
        image=image,
        channels=channels,
        bundle=bundle,
        config=_job_config(recipe, channels, bundle, gpus),
        gpus=gpus,
        notes=(*_notes(recipe, image, prepared, channels), *_check_notes(recipe, checked)),
    )


def _own_code(recipe: Recipe) -> tuple[Path, ...]:
    return tuple(recipe.resolve(file) for file in recipe.code.files)


def wait_s(recipe: Recipe) -> int:
    """How long a spot job may take with its waiting; by default a day more than it may run."""
    return recipe.compute.max_wait_s or recipe.compute.max_runtime_s + 24 * 3600


def _check_run_name(name: str) -> str:
    if not RUN_NAME.fullmatch(name):
        raise RunError(
            f"The run name {name!r} cannot be part of a job name.",
            hint=f"Use lower-case letters, digits and single dashes, such as {_as_run_name(name)}.",
        )
    if len(name) > RUN_NAME_LIMIT:
        raise RunError(
            f"The run name {name!r} has {len(name)} characters; {RUN_NAME_LIMIT} fit before the time in a job name.",
            hint=f"Use --name {name[:RUN_NAME_LIMIT].rstrip('-')}.",
        )
    return name


def recipe_key(recipe: Recipe) -> str:
    """The recipe's name as a part of S3 keys: what its schedules, publications and champions share."""
    return make_key(recipe.name)


def make_key(name: str) -> str:
    """A digest of the whole name tells apart those that folding makes one: my_recipe, My-Recipe, and all in Chinese."""
    folded = _as_run_name(name)
    if folded == name:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:KEY_DIGEST]
    return f"{folded[: RUN_NAME_LIMIT - KEY_DIGEST - 1].rstrip('-')}-{digest}"


def _as_run_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:RUN_NAME_LIMIT].strip("-") or "my-run"


def find_prepared(recipe: Recipe, track: Track = untracked) -> Prepared | None:
    """The channels made from the recipe's sources; None where the recipe has ready ones."""
    data = recipe.data
    if data.train or not data.sources:
        return None
    sources = tuple(recipe.placed(source) for source in data.sources)
    away = next((source.name for source in sources if not source.is_here), "")
    if away:
        raise DataError(
            f"{away} is not on this machine, and a plan needs no network.",
            hint="Run `launcher prepare` with this recipe; it ends with the words to submit what it made.",
        )
    return find_or_prepare(sources, data.filters, recipe.prepare, track)


def find_left_out(recipe: Recipe) -> str:
    """What naming the training rows puts aside, for a note: a split of the sources is of other rows than these."""
    if recipe.data.train and recipe.data.sources:
        return "data.train names the rows, so the recipe's sources are left out, for eval and test as well"
    return ""


def find_row_files(recipe: Recipe, prepared: Prepared | None) -> dict[str, Path]:
    """Where each channel's rows lie: the file that the recipe or a flag names, else the prepared one."""
    files = {channel.name: channel.path for channel in prepared.channels} if prepared else {}
    files |= {name: recipe.resolve(path) for name in CHANNELS if (path := getattr(recipe.data, name))}
    return {name: files[name] for name in CHANNELS if name in files}


def find_subject(recipe: Recipe, prepared: Prepared | None, *, network: bool) -> Subject:
    """The recipe's rows and its model's tokenizer, for a check."""
    files = find_row_files(recipe, prepared)
    if recipe.model.s3:
        why = f"the model lies in {recipe.model.s3}. `launcher check --tokenizer FOLDER` counts"
        return Subject(files, "", recipe.config, why)
    folder = recipe.resolve(recipe.config.model_name_or_path)
    model = str(folder) if folder.is_dir() else recipe.config.model_name_or_path
    return Subject(files, model, recipe.config, network=network)


def _model_channels(recipe: Recipe) -> list[Channel]:
    channels = []
    base = recipe.config.model_name_or_path
    if recipe.model.s3:
        channels.append(s3_channel("model", recipe.model.s3))
    elif _is_folder(recipe, base):
        channels.append(folder_channel("model", recipe.resolve(base), wants="config.json"))
    if adapter := recipe.model.adapter:
        from_s3 = adapter.startswith("s3://")
        channels.append(
            s3_channel("adapter", adapter)
            if from_s3
            else folder_channel("adapter", recipe.resolve(adapter), wants="adapter_config.json")
        )
    return channels


def _is_folder(recipe: Recipe, model: str) -> bool:
    """A folder where there is one, or where the spelling can mean nothing else; a Hub id has at most one slash."""
    return recipe.resolve(model).is_dir() or model.startswith(PATH_STARTS)


def _count_gpus(recipe: Recipe) -> int:
    known = instances.find_instance(recipe.compute.instance)
    return known.gpus if known else 1


def _job_config(recipe: Recipe, channels: tuple[Channel, ...], bundle: Bundle, gpus: int) -> sft.TrainConfig:
    """The hyperparameters of this job: the recipe's, split over its GPUs, with what the container must know."""
    config = _split_batch(recipe.config, gpus * recipe.compute.count)
    has_eval = any(channel.name == "eval" for channel in channels)
    if not has_eval and (config.load_best_model_at_end or config.early_stopping_patience):
        raise RecipeError(
            "load_best_model_at_end and early_stopping_patience go by the eval loss, and there are no eval rows.",
            hint="Name some with --eval, or leave both settings out.",
        )
    return dataclasses.replace(
        config,
        max_runtime_s=recipe.compute.max_runtime_s,
        eval_strategy=config.eval_strategy if has_eval else "no",
        recipe_name=recipe.name,
        recipe_digest=recipe_digest(recipe),
        data_digest=data_digest(channels),
        source_digest=bundle.digest[:16],
        start_digest=",".join(f"{item.name}:{item.digest[:16]}" for item in channels if item.name not in CHANNELS),
        adapter_source=_adapter_source(recipe),
        git_revision=find_git_revision(recipe.folder),
    )


def _adapter_source(recipe: Recipe) -> str:
    adapter = recipe.model.adapter
    return adapter if not adapter or adapter.startswith("s3://") else os.path.normpath(recipe.resolve(adapter))


def _split_batch(config: sft.TrainConfig, world: int) -> sft.TrainConfig:
    """The same rows in a step on several GPUs, or a refusal: a larger batch would be another recipe."""
    wanted = config.effective_batch_size
    for per_device in range(config.per_device_train_batch_size, 0, -1):
        if wanted % (per_device * world) == 0:
            return dataclasses.replace(
                config,
                per_device_train_batch_size=per_device,
                gradient_accumulation_steps=wanted // (per_device * world),
            )
    raise RecipeError(
        f"{wanted} rows a step cannot be split evenly over {world} GPUs.",
        hint=f"Make per_device_train_batch_size x gradient_accumulation_steps a multiple of {world}, or use one GPU.",
    )


def recipe_digest(recipe: Recipe) -> str:
    """Of everything in the recipe that changes the result; where it runs and what it costs do not."""
    shaping = sft.find_shaping(recipe.config)
    shaping["image"] = recipe.image.uri or recipe.image.version
    shaping["model_s3"] = recipe.model.s3
    shaping["code"] = digest_files(_own_code(recipe))
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:16]


def data_digest(channels: tuple[Channel, ...]) -> str:
    parts = [f"{channel.name} {channel.digest}" for channel in channels]
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:16]


def find_git_revision(folder: Path) -> str:
    """The recipe's commit, with a plus when its checkout has changes; empty outside a checkout."""
    git = shutil.which("git")
    if not git:
        return ""

    def ask(*words: str) -> str:
        done = subprocess.run([git, "-C", str(folder), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = ask("rev-parse", "--short=12", "HEAD")
    return head + "+" if head and ask("status", "--porcelain", "--untracked-files=no") else head


def _check_notes(recipe: Recipe, checked: Checked) -> list[str]:
    """What is worth a warning, the rows as tokens, or why nobody has counted them; a stand-in has tokens of its own."""
    notes = [str(warning) for warning in checked.warnings]
    if not recipe.config.smoke:
        notes += [part.words() for part in checked.tokens]
        notes += [f"not checked: {checked.unchecked}"] if checked.unchecked else []
    return notes


def _notes(
    recipe: Recipe, image: images.Image | None, prepared: Prepared | None, channels: tuple[Channel, ...]
) -> list[str]:
    notes = [*compute_notes(recipe.compute, recipe.output.kms_key), *network_notes(recipe, channels)]
    notes += base_model.adapter_notes(recipe)
    if doubt := recipe.config.find_doubt(recipe.config.max_steps):
        notes.append(doubt)
    if not any(channel.name == "eval" for channel in channels):
        notes.append("no evaluation: --eval names rows for it")
    if left_out := find_left_out(recipe):
        notes.append(left_out)
    if prepared:
        sources = "1 source" if len(prepared.sources) == 1 else f"{len(prepared.sources)} sources"
        notes += [f"prepared from {sources}: {prepared.words()}", *prepared.notes]
    if recipe.config.smoke and "model.smoke" in recipe.origins:
        notes.append(
            f"stand-in model ({recipe.origins['model.smoke']}): a small random model of the same family for "
            f"{recipe.config.max_steps} steps proves the road, not the result"
        )
    if image and image.patched_until and image.patched_until < datetime.now(UTC).strftime("%Y-%m-%d"):
        notes.append(f"AWS patched the {image.version} image until {image.patched_until}; it still runs")
    if any(Path(file).name == "requirements.txt" for file in recipe.code.files):
        notes.append("requirements.txt makes every start install packages from the network")
    return notes
