"""No secret leaves the job in its log, in a traceback or in the failure file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import container_src.sft.config as config

FOLDER = Path(config.__file__).parent.parent
HUB = "hf_" + "aB3" * 12
OWN = "a-secret-of-another-shape"
SCRIPT = f"""
import logging, sys
from pathlib import Path
from sft import failure, log, masks
masks.mask_streams()
masks.mask_streams()
masks.remember({OWN!r})
log.say("token {HUB} and {OWN}")
print("printed", {HUB!r}, {OWN!r}, flush=True)
logging.warning("logged %s", {OWN!r})
sys.stderr.writelines(["lines {HUB}\\n"])
try:
    raise RuntimeError("refused: Bearer {HUB}, {OWN}")
except RuntimeError as error:
    failure.report(error, Path(sys.argv[1]))
raise ValueError("uncaught {OWN}")
"""


def test_secrets_are_masked_wherever_the_job_writes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    everything = done.stdout + done.stderr + (tmp_path / "failure").read_text()
    assert HUB not in everything
    assert OWN not in everything
    assert "token [secret] and [secret]" in done.stdout
    assert "printed [secret] [secret]" in done.stdout
    assert "logged [secret]" in done.stderr
    assert "lines [secret]" in done.stderr
    assert "Traceback" in done.stderr
    assert "uncaught [secret]" in done.stderr
    assert "Bearer [secret], [secret]" in (tmp_path / "failure").read_text()


def test_words_that_only_look_like_one_stay() -> None:
    from container_src.sft.masks import hide

    assert hide("hf_hub_download of hf_token") == "hf_hub_download of hf_token"
