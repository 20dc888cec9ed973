"""A scheduled job's part in the gate: ending early where nothing changed, weighing, promoting, telling."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .artifact import write_json
from .champion import (
    POINTER,
    VERDICT,
    Champion,
    ChampionError,
    Move,
    find_other_base,
    is_same_training,
    make_record,
    promote,
    tell,
)
from .checkpoint import Origin
from .comparison import LEAST_ROWS
from .config import TrainConfig
from .data import Encoded
from .evaluate import AbandonedError, RowScores
from .gate import weigh
from .log import is_first_process, say, warn
from .model import Base
from .paths import Paths


@dataclass(frozen=True)
class Evaluated:
    """The final evaluation: the comparison with the base, and the scores it was made of."""

    comparison: dict[str, Any]
    channel: str
    rows: list[Encoded]
    base: RowScores | None = None
    tuned: RowScores | None = None

    @property
    def chosen_by_rows(self) -> bool:
        return bool(self.comparison and self.comparison["chosen_by_these_rows"])


def end_unchanged(
    champion: Champion | None, origin: Origin, config: TrainConfig, paths: Paths, publication: Mapping[str, Any]
) -> bool:
    """Whether this training has been done already: then a manifest that says so is all that the job leaves."""
    if champion is None or not is_same_training(champion, origin, config):
        return False
    reason = f"recipe, code and data are those of the champion {champion.job}: there is nothing to train"
    if is_first_process():
        paths.output.mkdir(parents=True, exist_ok=True)
        paths.checkpoints.mkdir(parents=True, exist_ok=True)
        manifest = {
            "outcome": "unchanged",
            "reason": reason,
            "champion": champion.job,
            "publication": publication.get("id", ""),
            "steps_done": 0,
            **dataclasses.asdict(origin),
            "source_digest": config.source_digest,
            "start_digest": config.start_digest,
            "config": dataclasses.asdict(config),
        }
        write_json(paths.output / "manifest.json", manifest)
        write_json(paths.checkpoints / "outcome.json", {"outcome": "unchanged", "steps": 0, "reason": reason})
        say(f"Outcome: unchanged ({reason}).")
    return True


def check_challenge(champion: Champion | None, config: TrainConfig, judging: int) -> None:
    """What the gate could otherwise say only after the training; `judging` counts the rows to judge by."""
    if champion is None:
        return
    if problem := find_other_base(champion, dataclasses.asdict(config)):
        raise ChampionError(
            f"{problem[0].upper()}{problem[1:]}, so nothing was trained. "
            "A recipe of another name has a champion of its own."
        )
    if reason := _why_unjudged(config, judging):
        warn(f"The gate will leave this job unjudged, and it cannot be promoted: {reason}.")
    elif judging < LEAST_ROWS:
        warn(
            f"The gate cannot find this job better, and it cannot be promoted: {judging} rows are too few to judge by "
            f"({LEAST_ROWS} or more would do)."
        )


def _why_unjudged(config: TrainConfig, judging: int) -> str:
    if not judging:
        return "there is no evaluation to judge by, since the recipe has neither eval nor test rows"
    if config.lora_bias != "none":
        return f"with trained biases (lora.bias is {config.lora_bias}) the base cannot be compared with"
    return ""


def reuse_stand_in(champion: Champion | None, folder: Path) -> Base | None:
    """The champion's stand-in base: one made from other rows would not fit its adapter."""
    if champion is None or not (champion.folder / "base").is_dir():
        return None
    shutil.copytree(champion.folder / "base", folder, dirs_exist_ok=True)
    for path in champion.folder.iterdir():  # the tokenizer lies beside the adapter too, and belongs to the base
        if "token" in path.name or path.name == "chat_template.jinja":
            shutil.copy2(path, folder / path.name)
    return Base(str(folder), "base")


def challenge(
    trainer: Any,
    champion: Champion,
    evaluated: Evaluated,
    config: TrainConfig,
    paths: Paths,
    manifest: Mapping[str, Any],
    environ: Mapping[str, str],
) -> None:
    """Weigh the champion and this job's adapter on the same rows, write the verdict, act on it, and tell."""
    verdict = _judge(trainer, champion, evaluated, config, manifest)
    if not is_first_process():
        return
    job, region = environ.get("TRAINING_JOB_NAME", "by-hand"), environ.get("AWS_REGION", "")
    verdict |= {"job": job, "champion_before": champion.job, "publication": manifest["publication"]}
    move = Move()
    if verdict["decision"] == "better" and config.promote == "if-better":
        prefix = f"{str(champion.record['pointer']).removesuffix(POINTER)}{job}/"
        record = make_record(
            job,
            prefix,
            str(champion.record["pointer"]),
            str(champion.record["prefix"]) if champion.job else "",
            manifest,
            evaluated.comparison,
            "the job",
        )
        move = promote(champion, job, paths.output, record, verdict["sentence"], region)
    verdict |= _outcome_of(move)
    write_json(paths.output / VERDICT, verdict)
    write_json(paths.checkpoints / VERDICT, verdict)
    words = describe(verdict)
    say(f"Gate: {words}")
    if config.notify_topic:
        problem = tell(config.notify_topic, f"{config.recipe_name}: {verdict['decision']}", words)
        say(f"The notice could not be published: {problem}" if problem else "The notice is published.")


def _judge(
    trainer: Any, champion: Champion, evaluated: Evaluated, config: TrainConfig, manifest: Mapping[str, Any]
) -> dict[str, Any]:
    unjudged = {"decision": "unjudged", "better": False, "sentence": ""}
    if manifest["outcome"] == "stopped":
        return unjudged | {"reasons": [f"the job was stopped before its end ({manifest['reason']})."]}
    if evaluated.base is None or evaluated.tuned is None:
        return unjudged | {"reasons": [f"{_why_unjudged(config, len(evaluated.rows)) or 'nothing was evaluated'}."]}
    base, tuned = evaluated.base, evaluated.tuned
    try:
        held = score_champion(trainer, champion, evaluated.rows) if champion.job else None
        if held and held.packed != tuned.packed:  # its adapter cannot be packed
            tuned = trainer.score(evaluated.rows)
            with trainer.accelerator.unwrap_model(trainer.model).disable_adapter():
                base = trainer.score(evaluated.rows)
    except AbandonedError:
        return unjudged | {"reasons": ["the job was asked to stop before the champion was evaluated."]}
    weighed = weigh(base, held, tuned, evaluated.channel, config.seed, config.guarded, evaluated.chosen_by_rows)
    return weighed | {"decision": "better" if weighed["better"] else "refused"}


def score_champion(trainer: Any, champion: Champion, rows: list[Encoded]) -> RowScores:
    """Its adapter beside the job's own on the same base, in the same process and arithmetic."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.load_adapter(str(champion.folder), adapter_name="champion")
    model.set_adapter("champion")
    try:
        return trainer.score(rows)
    finally:
        model.set_adapter("default")
        model.delete_adapter("champion")


def _outcome_of(move: Move) -> dict[str, Any]:
    if move.promoted:
        return {"decision": "promoted", "reasons": [f"{move.problem}."] if move.problem else []}
    if move.lost:
        reason = f"the champion changed meanwhile: it is {move.lost} now, and was not weighed against."
        return {"decision": "lost", "reasons": [reason]}
    return {"reasons": [f"not promoted: {move.problem}."]} if move.problem else {}


def describe(verdict: Mapping[str, Any]) -> str:
    """The verdict in a sentence or two."""
    before, reasons = verdict["champion_before"], " ".join(verdict["reasons"])
    stays = f"The champion stays {before}" if before else "There is no champion yet"
    if verdict["decision"] == "promoted":
        after = f" after {before}" if before else ""
        return f"promoted: {verdict['job']} is the champion{after}. {verdict['sentence']} {reasons}".rstrip()
    if verdict["decision"] == "better":
        by_hand = reasons or f"`launcher champion promote {verdict['job']}` makes it the champion."
        return f"better: {verdict['sentence']} {stays}: {by_hand}"
    if verdict["decision"] == "lost":
        return f"lost: {reasons}"
    return f"{verdict['decision']}: {reasons} {stays}."
