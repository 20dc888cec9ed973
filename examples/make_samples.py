"""Make the sample data in examples/data, or verify it with --check."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from samples import chatdoctor, healthcare_qa, llama2, medical, text_to_sql

DATA = Path(__file__).resolve().parent / "data"
DOMAINS = (medical, chatdoctor, healthcare_qa, text_to_sql, llama2)


def main() -> int:
    arguments = parse_arguments()
    files = make_files()
    if not arguments.check:
        write_files(files, arguments.out)
        return 0
    problems = find_problems(files, arguments.out)
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return 1 if problems else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DATA, help="folder of the files (default: examples/data)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file differs")
    return parser.parse_args()


def make_files() -> dict[str, str]:
    """Every file's text by its path inside the data folder."""
    files: dict[str, str] = {}
    for domain in DOMAINS:
        files |= domain.make_files()
    return files


def write_files(files: dict[str, str], folder: Path) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())  # bytes: text mode would write CRLF on Windows


def find_problems(files: dict[str, str], folder: Path) -> list[str]:
    """What is missing, different or unknown in the folders that this script writes."""
    wrong = [name for name, text in files.items() if not holds(folder / name, text)]
    problems = [f"{folder / name}: missing or different; run {Path(__file__).name} to make it again" for name in wrong]
    extra = sorted(find_names(files, folder) - set(files))
    return problems + [f"{folder / name}: not made by {Path(__file__).name}; remove it" for name in extra]


def holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def find_names(files: dict[str, str], folder: Path) -> set[str]:
    tops = {name.split("/")[0] for name in files}
    paths = (path for top in tops for path in (folder / top).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in paths}


if __name__ == "__main__":
    sys.exit(main())
