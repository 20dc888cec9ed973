"""The main road end to end: the launcher as a subprocess, the local endpoint, the real toolkit, real QLoRA."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROWS = [{"text": f"### Human: what is {n} and {n}?\n### Assistant: {n} and {n} is {2 * n}."} for n in range(40)]


@pytest.fixture(scope="module")
def first(endpoint_home: Path, tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The README's first command, once for this module."""
    folder = tmp_path_factory.mktemp("first")
    return subprocess.run(
        [sys.executable, "-m", "launcher", "submit", "--instance", "local", "--name", "quickstart", "--json"],
        cwd=folder,
        env={**os.environ, "LAUNCHER_HOME": str(endpoint_home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def result(first: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert first.returncode == 0, first.stderr
    return dict(json.loads(first.stdout))


def test_the_first_command_ends_with_a_loadable_adapter(first, result, endpoint) -> None:
    assert "stand-in model" in first.stderr
    folder = Path(result["adapter"])
    assert result["status"] == "completed"
    assert re.fullmatch(r"quickstart-\d{8}-\d{6}", result["name"])
    assert folder.as_posix().startswith("runs/quickstart-")


def test_the_loss_of_the_stand_in_falls(result, endpoint) -> None:
    from launcher import attach

    losses = [found["loss"] for found in attach(result["name"]).metrics() if "loss" in found]
    assert len(losses) == 20
    assert sum(losses[-4:]) / 4 < 0.9 * sum(losses[:2]) / 2


def test_a_second_submit_of_a_finished_run_starts_nothing(result, launch, endpoint) -> None:
    again = launch("submit", "--instance", "local", "--name", "quickstart", "--detach")
    assert again.returncode == 0, again.stderr
    assert "is finished" in again.stderr
    assert again.stdout.strip() == result["name"]


def test_the_same_data_is_uploaded_once(result, launch, endpoint) -> None:
    again = launch("submit", "--instance", "local", "--name", "quickstart", "--fresh", "--detach")
    assert again.returncode == 0, again.stderr
    assert "uploaded 0 bytes" in again.stderr
    assert launch("stop", again.stdout.strip()).returncode == 0
    assert launch("wait", again.stdout.strip()).returncode == 5


def test_every_reader_speaks_json_and_finds_a_job_by_its_beginning(result, launch, endpoint) -> None:
    name = result["name"]
    status = launch("status", name[:-1], "--json")
    assert json.loads(status.stdout)["status"] == "completed"
    assert name in [job["name"] for job in json.loads(launch("list", "--json").stdout)]
    logs = [json.loads(line) for line in launch("logs", name, "--json").stdout.splitlines()]
    assert [line for line in logs if line["metrics"] and "loss" in line["metrics"]]
    assert launch("wait", name, "--json").returncode == 0


def test_fetch_is_idempotent_and_the_adapter_loads_with_peft(result, launch, endpoint, tmp_path: Path) -> None:
    for _ in range(2):
        fetched = launch("fetch", result["name"], "--out", "adapter", "--json")
        assert fetched.returncode == 0, fetched.stderr
    folder = tmp_path / "adapter"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["outcome"] == "completed"
    assert not list(folder.rglob("*.bin"))
    script = (
        "import sys, torch\n"
        "from peft import AutoPeftModelForCausalLM\n"
        "from transformers import AutoTokenizer\n"
        "model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "tokens = AutoTokenizer.from_pretrained(sys.argv[1])('hello', return_tensors='pt')\n"
        "print(torch.isfinite(model(**tokens).logits).all().item())\n"
    )
    # cwd is the adapter's folder: a stand-in's base lies beside its adapter
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, "."], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "True", done.stderr


def test_plan_json_is_what_the_endpoint_received(result, endpoint) -> None:
    from datetime import UTC, datetime

    from launcher import load_recipe, make_plan, make_request
    from launcher.aws.site import LOCAL_SITE

    stamp = datetime.strptime(result["name"].removeprefix("quickstart-"), "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
    recipe = load_recipe(None, {"compute.instance": "local"})
    request = make_request(make_plan(recipe, "quickstart", now=stamp), LOCAL_SITE)
    received = received_request(result["name"])
    # the revision of the user's own checkout may move between the two
    for hyperparameters in (request["HyperParameters"], received["HyperParameters"]):
        hyperparameters.pop("git_revision", None)
    assert received == request


def received_request(job: str) -> dict[str, Any]:
    """The CreateTrainingJob request as it came in over the wire."""
    from launcher.local.lifecycle import find_endpoint

    endpoint = find_endpoint()
    assert endpoint is not None
    with urllib.request.urlopen(f"{endpoint.url}/_local/jobs/{job}/request") as answer:
        return dict(json.load(answer))


def test_stop_keeps_the_adapter_and_the_next_submit_goes_on(launch, endpoint, write_rows, tmp_path: Path) -> None:
    train = str(write_rows("train.jsonl", ROWS))
    words = ("submit", "--instance", "local", "--name", "stopped", "--train", train, "--set", "data.eval=", "--smoke")
    many = ("--set", "training.max_steps=4000", "--set", "training.save_steps=5")
    started = launch(*words, *many, "--detach")
    assert started.returncode == 0, started.stderr
    name = started.stdout.strip()
    refused = launch(*words, *many, "--detach")
    assert (refused.returncode, "has a live job" in refused.stderr) == (2, True)

    with _following(name, tmp_path) as follower:
        for line in follower.stdout or []:
            if "step=12/4000" in line:
                break
        follower.send_signal(signal.SIGINT)
        _, talk = follower.communicate(timeout=120)
    assert follower.returncode == 130
    assert f"launcher logs -f {name}" in talk
    assert json.loads(launch("status", name, "--json").stdout)["status"] == "training"

    assert launch("stop", name).returncode == 0
    assert launch("wait", name).returncode == 5
    assert launch("fetch", name, "--out", "stopped").returncode == 0
    manifest = json.loads((tmp_path / "stopped" / "manifest.json").read_text())
    assert manifest["outcome"] == "stopped"

    changed = launch(*words, *many, "--set", "lora.r=4", "--detach")
    assert (changed.returncode, "the recipe changed" in changed.stderr) == (2, True)
    resumed = launch(*words, *many, "--detach")
    assert "going on from the checkpoint" in resumed.stderr
    with _following(resumed.stdout.strip(), tmp_path) as follower:
        steps = (
            int(found[1]) for line in follower.stdout or [] if (found := re.search(r"step=(\d+)/4000 .*\bloss=", line))
        )
        assert next(steps) > 5
        follower.send_signal(signal.SIGINT)
        follower.communicate(timeout=120)
    assert launch("stop", resumed.stdout.strip()).returncode == 0
    assert launch("wait", resumed.stdout.strip()).returncode == 5


@contextlib.contextmanager
def _following(name: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "launcher", "logs", "-f", name],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as follower:
        try:
            yield follower
        finally:
            follower.kill()  # one that does not end must not be waited for


@pytest.fixture
def notebook() -> Iterator[Path]:
    from launcher.recipe import shipped_folder

    yield shipped_folder() / "notebooks" / "quickstart.ipynb"


def test_the_notebook_runs_from_top_to_bottom(notebook: Path, endpoint, tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    document = nbformat.read(notebook, as_version=4)
    NotebookClient(document, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert list(tmp_path.glob("out/adapter_model.safetensors"))


def test_the_road_to_a_real_instance_is_the_same_through_a_standard_endpoint(launch, endpoint, tmp_path: Path) -> None:
    """`--instance ml.g5.xlarge` with AWS_ENDPOINT_URL: credentials, STS, a bucket and a role of one's own."""
    import boto3

    from launcher.local.lifecycle import ensure_endpoint

    url = ensure_endpoint().url
    signed_in = {
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "LAUNCHER_ROLE": "my-role",
        "LAUNCHER_BUCKET": "my-bucket",
    }
    s3 = boto3.client("s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s")
    s3.create_bucket(Bucket="my-bucket")
    done = launch("submit", "--instance", "ml.g5.xlarge", "--smoke", "--name", "on-aws", "--json", **signed_in)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["place"], result["instance"], result["status"]) == ("aws", "ml.g5.xlarge", "completed")
    assert result["model_uri"].startswith("s3://my-bucket/launcher/output/on-aws-")
    assert (tmp_path / result["adapter"] / "adapter_model.safetensors").is_file()


def test_a_folder_as_base_and_an_earlier_adapter_travel_as_channels(result, launch, endpoint, tmp_path: Path) -> None:
    assert launch("fetch", result["name"], "--out", "first").returncode == 0
    base, adapter = tmp_path / "first" / "base", tmp_path / "first"
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (base / name).write_bytes((adapter / name).read_bytes())
    settings = ("training.max_steps=2", "training.learning_rate=0.001", "model.adapter=first")
    words = ("submit", "--instance", "local", "--no-smoke", "--model", str(base), "--name", "continued", "--json")
    done = launch(*words, *(part for setting in settings for part in ("--set", setting)))
    assert done.returncode == 0, done.stderr
    assert "Continuing from the adapter" in done.stderr
    left = tmp_path / json.loads(done.stdout)["adapter"]
    assert (left / "adapter_model.safetensors").is_file()
    assert json.loads((left / "manifest.json").read_text())["continued_from"] == {
        "source": str(adapter),
        "job": result["name"],
        "sha256": hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest(),
    }
