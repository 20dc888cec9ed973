"""The entrypoint under a real bash, with stand-ins for the image's `train` and the user's train.py."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from botocore.session import get_session

from launcher.signal_shim import ENTRYPOINT

DEADLINE_S = 60.0

# As the toolkit does: a process that must not get SIGTERM waits for one that handles it. The latter's pid
# comes late when the test says so.
TRAIN = """#!/bin/bash
trap 'echo the toolkit got it; exit 99' TERM
(
    trap 'echo got term; sleep 0.2; echo saved; exit 7' TERM
    [ -e {folder}/late ] && sleep 1.5
    echo $BASHPID > {folder}/output/pid
    echo ready
    until [ -e {folder}/end ]; do sleep 0.02; done
    exit 5
) &
wait $!
"""


@dataclass
class Container:
    folder: Path

    def install(self, name: str, script: str) -> None:
        program = self.folder / "bin" / name
        program.write_text(script)
        program.chmod(0o755)

    def start(self, *prefix: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(
                [*prefix, *ENTRYPOINT],
                env={
                    "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
                    "SAGEMAKER_BASE_DIR": str(self.folder),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.log())


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def container(tmp_path: Path) -> Container:
    for name in ("bin", "output"):
        (tmp_path / name).mkdir()
    made = Container(tmp_path)
    made.install("train", TRAIN.format(folder=tmp_path))
    return made


def test_it_keeps_the_limits_of_the_api() -> None:
    model = get_session().get_service_model("sagemaker")
    text = model.shape_for("TrainingContainerEntrypointString").metadata
    assert len(ENTRYPOINT) <= model.shape_for("TrainingContainerEntrypoint").metadata["max"]
    assert max(map(len, ENTRYPOINT)) <= text["max"]
    assert all("\n" not in part for part in ENTRYPOINT)


def test_without_a_signal_the_code_is_that_of_training(container: Container) -> None:
    (container.folder / "end").touch()
    assert container.start().wait(DEADLINE_S) == 5
    assert container.log() == "ready\n"


def test_sigterm_goes_past_the_toolkit_and_is_waited_for(container: Container) -> None:
    process = container.start()
    container.wait_for("ready")
    process.terminate()
    assert process.wait(DEADLINE_S) == 7
    assert container.log() == "ready\ngot term\nsaved\n"


def test_sigterm_before_there_is_a_pid_arrives_when_there_is_one(container: Container) -> None:
    (container.folder / "late").touch()
    process = container.start()
    # Not earlier than the trap: who ends the shell before that finds nothing started.
    wait_until(lambda: catches_sigterm(process.pid))
    process.terminate()
    assert process.wait(DEADLINE_S) == 7
    assert "got term\nsaved\n" in container.log()


def test_second_sigterm_does_not_end_the_wait(container: Container) -> None:
    process = container.start()
    container.wait_for("ready")
    process.terminate()
    container.wait_for("got term")
    process.terminate()
    assert process.wait(DEADLINE_S) == 7
    assert container.log().endswith("saved\n")


def test_sigterm_to_a_script_that_writes_no_pid_is_as_in_aws(container: Container) -> None:
    container.install("train", f"#!/bin/bash\necho ready; until [ -e {container.folder}/end ]; do sleep 0.02; done")
    process = container.start()
    container.wait_for("ready")
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    (container.folder / "end").touch()
    assert process.wait(DEADLINE_S) == 0


def test_nothing_is_left_when_training_ends_unsignalled(container: Container) -> None:
    container.install("train", "#!/bin/bash\necho ready; sleep 0.3; exit 4")
    process = container.start()
    container.wait_for("ready")
    process.terminate()
    assert process.wait(DEADLINE_S) == 4
    wait_until(lambda: not has_session(process.pid))


def test_image_that_sets_the_hostname_first_is_started_its_own_way(container: Container) -> None:
    name = "start_with_right_hostname.sh"
    container.install(name, "#!/bin/bash\ntr '\\0' ' ' < /proc/$$/cmdline; echo; train")
    process = container.start()
    container.wait_for("ready")
    process.terminate()
    assert process.wait(DEADLINE_S) == 7
    # Before that, bash complains that there is no terminal, as it does in AWS's own logs.
    command = f"bash -m {container.folder / 'bin' / name} train"
    assert container.log().endswith(f"{command} \nready\ngot term\nsaved\n")


def test_as_pid_1(container: Container) -> None:
    new_namespace = ("unshare", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc")
    if not shutil.which("unshare") or subprocess.run([*new_namespace, "true"], check=False).returncode:
        pytest.skip("a process namespace cannot be made here")
    process = container.start(*new_namespace)
    container.wait_for("ready")
    (inner,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(inner), signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 7
    assert container.log() == "ready\ngot term\nsaved\n"


def catches_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


def has_session(session: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] != "Z" and int(fields[3]) == session:
            return True
    return False
