"""botocore's models, read without what takes a third of a short command."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any


def make_loader() -> Any:
    """botocore's loader, without what takes a third of a short command: looking into each of its 400 services before
    it loads one, and reading their models into ordered dictionaries, which plain ones have long been."""
    from botocore.loaders import JSONFileLoader, Loader

    class QuickFileLoader(JSONFileLoader):  # type: ignore[misc]  # botocore has no types
        def load_file(self, file_path: str) -> Any:
            for path, open_file in ((Path(f"{file_path}.json"), open), (Path(f"{file_path}.json.gz"), gzip.open)):
                if path.is_file():
                    with open_file(path, "rb") as file:
                        return json.loads(file.read())
            return None

    class QuickLoader(Loader):  # type: ignore[misc]
        def list_available_services(self, type_name: str) -> list[str]:
            return [entry.name for path in self.search_paths if Path(path).is_dir() for entry in os.scandir(path)]

    return QuickLoader(file_loader=QuickFileLoader())
