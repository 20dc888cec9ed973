"""Saves a model when SIGTERM reaches it, and else goes on for long."""

import os
import signal
import sys
import time
from pathlib import Path

base = Path(os.environ["SAGEMAKER_BASE_DIR"])


def save(number, frame):
    (base / "model" / "adapter.txt").write_text("saved on SIGTERM")
    sys.exit(0)


signal.signal(signal.SIGTERM, save)
(base / "output" / "pid").write_text(str(os.getpid()))
sys.stdout.write("ready\n")
time.sleep(600)
