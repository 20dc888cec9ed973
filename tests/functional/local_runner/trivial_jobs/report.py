"""Leaves what it was given as the model."""

import json
import os
import sys
from pathlib import Path

base = Path(os.environ["SAGEMAKER_BASE_DIR"])
data = base / "input" / "data"
report = {
    "arguments": sys.argv[1:],
    "environment": dict(os.environ),
    "channels": {path.relative_to(data).as_posix(): path.read_text() for path in data.rglob("*") if path.is_file()},
    "config": {path.name: json.loads(path.read_text()) for path in (base / "input" / "config").iterdir()},
    "stdin": sys.stdin.read(),
}
(base / "model" / "report.json").write_text(json.dumps(report))
(base / "output" / "data" / "notes.txt").write_text("a side result")
sys.stdout.write("{'loss': 2.5}\n")
sys.stdout.write("{'loss': 0.25}\n\n")
sys.stdout.write("10%\r50%\r100%\n")
sys.stdout.buffer.write(b"caf\xe9\n")
