"""The gate's judgement, and whether a job's rows are one publication: both without a model."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.session
import pytest
from botocore.exceptions import ClientError
from botocore.response import StreamingBody
from botocore.stub import ANY, Stubber

from container_src.sft import champion as champions
from container_src.sft.artifact import ADAPTER_FILES
from container_src.sft.challenge import Evaluated, challenge, check_challenge, describe, end_unchanged
from container_src.sft.checkpoint import Origin
from container_src.sft.config import TrainConfig
from container_src.sft.evaluate import AbandonedError, RowScores
from container_src.sft.final_evaluation import compare_with_base
from container_src.sft.gate import weigh
from container_src.sft.job import run_job
from container_src.sft.paths import Paths, resolve_paths
from container_src.sft.publication import PublicationError, check_publication
from container_src.sft.stop import Stopping

GUARDS = ["token_accuracy", "base_loss"]
RANDOM = random.Random(5)
NOISE = [RANDOM.gauss(0, 0.3) for _ in range(40)]


def _scores(loss: float, rights: int = 5, wobble: float = 0.0) -> RowScores:
    losses = [10 * (loss + noise + wobble * (number % 2)) for number, noise in enumerate(NOISE)]
    return RowScores(losses, [float(rights)] * 40, [10] * 40)


def _weigh(base: float, champion: float | None, challenger: float, **more: Any) -> dict[str, Any]:
    held = None if champion is None else _scores(champion)
    return weigh(_scores(base), held, _scores(challenger, **more), "eval", 1, GUARDS)


def test_the_first_challenger_has_to_beat_the_base() -> None:
    assert _weigh(3.0, None, 2.0)["better"]
    found = _weigh(2.0, None, 2.0)
    assert (found["better"], found["against"]) == (False, "base")


def test_a_challenger_has_to_beat_the_champion_and_not_the_base_alone() -> None:
    assert _weigh(3.0, 2.0, 1.5)["better"]
    found = _weigh(3.0, 2.0, 2.5)
    assert not found["better"]
    assert found["reasons"][0].startswith("The challenger raised the loss from 1.992 to 2.492")
    assert found["against"] == "champion"


def test_a_gain_within_its_interval_is_none() -> None:
    found = _weigh(3.0, 2.0, 1.95, wobble=0.1)
    assert not found["better"]
    assert "No detectable change" in found["reasons"][0]


def test_a_guarded_measure_that_got_worse_stops_a_better_challenger() -> None:
    found = _weigh(3.0, 2.0, 1.5, rights=4)
    assert not found["better"]
    assert found["reasons"] == ["Guarded: token accuracy fell by 10.0% (-10.0% to -10.0%)."]
    assert weigh(_scores(3.0), _scores(2.0), _scores(1.5, 4), "eval", 1, [])["better"]


def test_a_champion_worse_than_the_base_does_not_lower_the_bar() -> None:
    found = _weigh(1.0, 3.0, 2.0)
    assert not found["better"]
    assert found["reasons"] == ["Guarded: the loss is 1 above the base's."]


def test_a_loss_that_is_not_a_number_is_never_better() -> None:
    for held in (None, 2.0, math.nan):
        found = _weigh(3.0, held, math.nan)
        assert not found["better"]
        assert "not a number" in found["reasons"][0]


def test_a_base_that_cannot_be_measured_guards_nothing() -> None:
    found = _weigh(math.nan, 3.0, 2.0)
    assert not found["better"]
    assert found["reasons"][0].startswith("Guarded: A loss is not a number")


def test_a_challenger_chosen_by_the_rows_it_is_weighed_on_says_so() -> None:
    found = weigh(_scores(3.0), _scores(2.0), _scores(1.5), "eval", 1, GUARDS, chosen_by_rows=True)
    assert found["better"]
    assert "These rows also chose the best checkpoint" in found["sentence"]


def test_verdicts_say_what_happens_to_the_champion() -> None:
    refused = {"decision": "refused", "reasons": ["Worse."], "sentence": "Worse.", "champion_before": "a", "job": "b"}
    assert describe(refused) == "refused: Worse. The champion stays a."
    lost = refused | {"decision": "lost", "reasons": ["the champion changed meanwhile: it is c now."]}
    assert describe(lost) == "lost: the champion changed meanwhile: it is c now."
    better = refused | {"decision": "better", "reasons": [], "sentence": "Better.", "champion_before": ""}
    assert describe(better) == (
        "better: Better. There is no champion yet: `launcher champion promote b` makes it the champion."
    )


# publications


def _make_base(tmp_path: Path, channels: dict[str, str], listed: dict[str, str]) -> Paths:
    data = tmp_path / "input" / "data"
    for channel, text in channels.items():
        (data / channel).mkdir(parents=True)
        (data / channel / f"{channel}.jsonl").write_text(text)
    (data / "publication").mkdir()
    files = {
        channel: {"files": {f"{channel}.jsonl": hashlib.sha256(text.encode()).hexdigest()}}
        for channel, text in listed.items()
    }
    content = {"id": "p1", "data_digest": "d", "channels": files}
    (data / "publication" / "publication.json").write_text(json.dumps(content))
    return resolve_paths(TrainConfig(), {"SAGEMAKER_BASE_DIR": str(tmp_path)})


def test_rows_of_one_publication_pass_with_their_digest(tmp_path: Path) -> None:
    paths = _make_base(tmp_path, {"train": "a", "eval": "b"}, {"train": "a", "eval": "b"})
    assert check_publication(paths)["data_digest"] == "d"


@pytest.mark.parametrize(
    ("channels", "listed"),
    [
        ({"train": "new", "eval": "old"}, {"train": "new", "eval": "new"}),
        ({"train": "old", "eval": "old"}, {"train": "new", "eval": "old"}),
        ({"train": "a", "eval": "b"}, {"train": "a"}),
        ({"train": "a"}, {"train": "a", "eval": "b"}),
    ],
)
def test_a_mixture_is_refused(tmp_path: Path, channels: dict[str, str], listed: dict[str, str]) -> None:
    with pytest.raises(PublicationError, match="Nothing was trained.*trigger"):
        check_publication(_make_base(tmp_path, channels, listed))


def test_a_job_without_a_publication_is_not_asked_for_one(tmp_path: Path) -> None:
    (tmp_path / "input" / "data" / "train").mkdir(parents=True)
    paths = resolve_paths(TrainConfig(), {"SAGEMAKER_BASE_DIR": str(tmp_path)})
    assert check_publication(paths) == {}


# nothing for nothing

CONFIG = TrainConfig(source_digest="code", start_digest="model:m", recipe_name="weekly")
ORIGIN = Origin("recipe", "data")


def _champion(tmp_path: Path, **changed: str) -> champions.Champion:
    record = champions.make_record(
        "weekly-1",
        "s3://b/champions/weekly/weekly-1/",
        "s3://b/champions/weekly/champion.manifest",
        "",
        {**dataclasses.asdict(ORIGIN), "source_digest": "code", "start_digest": "model:m", "recipe_name": "weekly"}
        | {"config": dataclasses.asdict(CONFIG)},
        {"evaluated_on": "eval", "rows": 5, "verdict": "better", "sentence": "s", "tuned": {}},
        "hand",
    )
    (tmp_path / "champion.json").write_text(json.dumps(record | changed))
    for name in ADAPTER_FILES:
        (tmp_path / name).write_bytes(b"content")
    found = champions.read_champion(tmp_path)
    assert found is not None
    return found


@pytest.mark.parametrize("changed", ["recipe_digest", "data_digest", "source_digest", "start_digest"])
def test_any_change_is_trained(tmp_path: Path, changed: str) -> None:
    assert not champions.is_same_training(_champion(tmp_path, **{changed: "another"}), ORIGIN, CONFIG)


def test_the_same_training_leaves_a_manifest_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "input" / "data" / "train").mkdir(parents=True)
    paths = resolve_paths(TrainConfig(), {"SAGEMAKER_BASE_DIR": str(tmp_path)})
    assert end_unchanged(_champion(tmp_path), ORIGIN, CONFIG, paths, {"id": "p1"})
    manifest = json.loads((paths.output / "manifest.json").read_text())
    assert (manifest["outcome"], manifest["champion"], manifest["publication"]) == ("unchanged", "weekly-1", "p1")
    assert json.loads((paths.checkpoints / "outcome.json").read_text())["outcome"] == "unchanged"


def test_the_placeholder_is_nobody(tmp_path: Path) -> None:
    (tmp_path / "champion.json").write_text(json.dumps(champions.make_placeholder("s3://b/none/", "s3://b/p")))
    champion = champions.read_champion(tmp_path)
    assert champion is not None
    assert not champion.job
    assert not champions.is_same_training(champion, ORIGIN, CONFIG)
    assert champions.find_other_base(champion, dataclasses.asdict(CONFIG)) == ""


def test_a_champion_of_another_base_is_not_weighed(tmp_path: Path) -> None:
    other = dataclasses.replace(CONFIG, start_digest="model:other")
    assert "another base" in champions.find_other_base(_champion(tmp_path), dataclasses.asdict(other))


def test_a_champion_of_another_base_ends_the_job_before_anything_heavy(tmp_path: Path) -> None:
    other = dataclasses.replace(CONFIG, start_digest="model:other")
    words = "was trained on another base .base_digest 'm' and not 'other'.*nothing was trained"
    with pytest.raises(champions.ChampionError, match=words):
        check_challenge(_champion(tmp_path), other, 15)
    check_challenge(_champion(tmp_path), CONFIG, 15)
    check_challenge(None, other, 15)


def test_a_job_weighs_its_champion_before_it_loads_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for channel in ("train", "eval", "champion"):
        (tmp_path / "input" / "data" / channel).mkdir(parents=True)
        (tmp_path / "input" / "data" / channel / "rows.jsonl").write_text('{"text": "a row"}\n')
    _champion(tmp_path / "input" / "data" / "champion", data_digest="of other rows")
    # a job sets variables of its own
    monkeypatch.setattr(os, "environ", {**os.environ, "SAGEMAKER_BASE_DIR": str(tmp_path)})
    other = dataclasses.replace(CONFIG, model_name_or_path="no/such-model")
    with pytest.raises(champions.ChampionError, match="another base .model"):
        run_job(other, Stopping())


@pytest.mark.parametrize(
    ("judging", "bias", "words"), [(0, "none", "neither eval nor test rows"), (5, "all", "trained biases")]
)
def test_a_job_that_nobody_will_judge_says_so_at_its_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], judging: int, bias: Any, words: str
) -> None:
    check_challenge(_champion(tmp_path), dataclasses.replace(CONFIG, lora_bias=bias), judging)
    said = "".join(capsys.readouterr())
    assert "unjudged" in said
    assert words in said


def test_a_job_with_too_few_rows_to_judge_by_says_so_at_its_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    champion = _champion(tmp_path)
    check_challenge(champion, CONFIG, 14)
    assert "cannot be promoted: 14 rows are too few to judge by (15 or more would do)" in "".join(capsys.readouterr())
    check_challenge(champion, CONFIG, 15)
    assert "".join(capsys.readouterr()) == ""


@pytest.mark.parametrize(
    "content", ["{}", "[]", "garbage", '{"job": "x", "prefix": "p", "pointer": "q", "previous": ""}']
)
def test_a_damaged_record_names_the_way_out(tmp_path: Path, content: str) -> None:
    (tmp_path / "champion.json").write_text(content)
    with pytest.raises(champions.ChampionError, match="champion rollback"):
        champions.read_champion(tmp_path)


class _StoppedTrainer:
    """Its job is asked to stop before the champion's first batch."""

    def __init__(self) -> None:
        self.adapters = ["default"]
        self.model = SimpleNamespace(
            load_adapter=lambda folder, adapter_name: self.adapters.append(adapter_name),
            set_adapter=lambda name: None,
            delete_adapter=self.adapters.remove,
        )
        self.accelerator = SimpleNamespace(unwrap_model=lambda model: model)

    def score(self, rows: list[Any]) -> RowScores:
        raise AbandonedError


def test_a_stop_while_the_champion_is_evaluated_leaves_the_job_unjudged(tmp_path: Path) -> None:
    paths = SimpleNamespace(output=tmp_path / "model", checkpoints=tmp_path / "checkpoints")
    for folder in (paths.output, paths.checkpoints):
        folder.mkdir()
    for name in ADAPTER_FILES:
        (tmp_path / name).write_text("{}")
    trainer = _StoppedTrainer()
    manifest = {"outcome": "completed", "publication": "", "config": dataclasses.asdict(CONFIG)}
    weighed = Evaluated({}, "eval", [], _scores(2.0), _scores(1.0))
    challenge(trainer, _champion(tmp_path), weighed, CONFIG, paths, manifest, {})  # type: ignore[arg-type]
    verdict = json.loads((paths.output / champions.VERDICT).read_text())
    assert (verdict["decision"], verdict["better"]) == ("unjudged", False)
    assert verdict["reasons"] == ["the job was asked to stop before the champion was evaluated."]
    assert trainer.adapters == ["default"]


class _ScoringTrainer(_StoppedTrainer):
    """Its evaluations find these, one after the other."""

    def __init__(self, *found: RowScores) -> None:
        super().__init__()
        self.found = list(found)
        self.model.disable_adapter = contextlib.nullcontext
        self.accelerator = SimpleNamespace(unwrap_model=lambda model: self.model)
        self.latest = (1, None)
        self.has_time_to_score = lambda rows: True

    def score(self, rows: list[Any]) -> RowScores:
        return self.found.pop(0)


def test_a_champion_that_cannot_be_packed_is_weighed_against_scores_that_are_not_either(tmp_path: Path) -> None:
    paths = SimpleNamespace(output=tmp_path / "model", checkpoints=tmp_path / "checkpoints")
    for folder in (paths.output, paths.checkpoints):
        folder.mkdir()
    manifest = {"outcome": "completed", "publication": "", "config": dataclasses.asdict(CONFIG)}
    packed = [dataclasses.replace(_scores(loss), packed=True) for loss in (2.0, 1.9)]
    trainer = _ScoringTrainer(_scores(1.5), _scores(1.0), _scores(2.0))  # the champion, then tuned and base again
    weighed = Evaluated({}, "eval", [], *packed)
    challenge(trainer, _champion(tmp_path), weighed, CONFIG, paths, manifest, {})  # type: ignore[arg-type]
    assert json.loads((paths.output / champions.VERDICT).read_text())["better"]
    assert not trainer.found


def test_the_base_is_compared_with_scores_made_in_the_same_way() -> None:
    rows, tuned = [object()] * 40, dataclasses.replace(_scores(1.9), packed=True)
    trainer = _ScoringTrainer(tuned, _scores(2.0), _scores(1.0))  # packing is given up with the base
    found = compare_with_base(trainer, "test", rows, 1, CONFIG)  # type: ignore[arg-type]
    assert found.tuned == _scores(1.0) and found.base == _scores(2.0)
    assert not trainer.found


@pytest.mark.parametrize("lost", ADAPTER_FILES)
def test_a_champion_without_its_adapter_is_refused_at_the_start(tmp_path: Path, lost: str) -> None:
    _champion(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(champions.ChampionError, match=f"weekly-1 has no {lost}.*champion rollback"):
        champions.read_champion(tmp_path)


# promotions


class Stubbed:
    """S3 as a stub: each put is refused or not, each read finds the pointer where it is said to point."""

    def __init__(self) -> None:
        keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
        self.client = botocore.session.get_session().create_client("s3", **keys)
        self.stub = Stubber(self.client)
        self.stub.activate()

    def refuses(self, code: str, etag: str) -> None:
        params = {"Bucket": "b", "Key": "champion.manifest", "Body": ANY, "IfMatch": etag}
        self.stub.add_client_error("put_object", code, expected_params=params)

    def takes(self, etag: str) -> None:
        params = {"Bucket": "b", "Key": "champion.manifest", "Body": ANY, "IfMatch": etag}
        self.stub.add_response("put_object", {}, params)

    def holds(self, prefix: str, etag: str) -> None:
        content = champions.make_pointer(prefix, [])
        body = StreamingBody(io.BytesIO(content), len(content))
        self.stub.add_response("get_object", {"Body": body, "ETag": etag}, {"Bucket": "b", "Key": "champion.manifest"})

    def move(self) -> champions.Move:
        held = champions.Champion(Path(), champions.make_placeholder("s3://b/none/", "s3://b/champion.manifest"))
        return champions._move_pointer(self.client, held, champions.make_pointer("s3://b/mine/", []), "e1")


def test_who_won_is_what_the_pointer_says_after_a_refusal() -> None:
    s3 = Stubbed()
    s3.refuses("PreconditionFailed", "e1")
    s3.holds("s3://b/mine/", "e2")
    assert s3.move() == champions.Move(promoted=True)
    s3.refuses("PreconditionFailed", "e1")
    s3.holds("s3://b/theirs/", "e2")
    assert s3.move() == champions.Move(lost="theirs")


def test_a_conflict_that_nobody_won_is_tried_again_and_not_for_ever() -> None:
    s3 = Stubbed()
    s3.refuses("ConditionalRequestConflict", "e1")
    s3.holds("s3://b/none/", "e1")
    s3.takes("e1")
    assert s3.move() == champions.Move(promoted=True)
    for _ in range(champions.PUTS):
        s3.refuses("ConditionalRequestConflict", "e1")
        s3.holds("s3://b/none/", "e1")
    with pytest.raises(ClientError, match="ConditionalRequestConflict"):
        s3.move()


def test_a_right_that_is_lacking_is_no_lost_race() -> None:
    s3 = Stubbed()
    s3.refuses("AccessDenied", "e1")
    s3.holds("s3://b/none/", "e1")
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.move()
    s3.stub.assert_no_pending_responses()
