"""Multipart uploads into the object store on disk."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.local.store import Attributes, Conditions, ObjectStore, StoreError
from launcher.local.store_model import StoredObject, Upload, WantedPart
from launcher.local.store_uploads import SMALLEST_PART

BUCKET = "bucket"


PART = SMALLEST_PART


def send(store: ObjectStore, upload: Upload, number: int, data: bytes, size: int | None = None) -> WantedPart:
    with store.uploads.receiving(upload, number, size or len(data), io.BytesIO(data)) as content:
        part = store.uploads.put_part(upload, number, content, None)
    return WantedPart(number, part.etag)


def complete(store: ObjectStore, upload: Upload, *wanted: WantedPart) -> StoredObject:
    return store.uploads.complete(BUCKET, "key", upload.id, wanted)


@pytest.fixture
def upload(store: ObjectStore) -> Upload:
    return store.uploads.create(BUCKET, "key", Attributes("text/plain"))


def test_parts_in_any_order_become_the_object_without_a_copy(
    store: ObjectStore,
    root: Path,
    upload: Upload,
    read: Callable[..., bytes],
    content_files: Callable[[Path], list[Path]],
) -> None:
    parts = [b"a" * PART, b"b" * PART, b"c" * 10]
    wanted = {number: send(store, upload, number, parts[number - 1]) for number in (2, 3, 1)}
    stored = complete(store, upload, wanted[1], wanted[2], wanted[3])
    assert read(store, "key") == b"".join(parts)
    assert (stored.content_type, stored.etag[-2:], stored.file) == ("text/plain", "-3", upload.file)
    assert [path.name for path in content_files(root)] == [upload.file]


@pytest.mark.parametrize("sizes", [(PART + 7, PART, 3), (PART, PART + 7, 3), (PART + 1, PART + 2, PART + 3)])
def test_parts_of_uneven_sizes_are_joined(
    store: ObjectStore,
    root: Path,
    upload: Upload,
    sizes: tuple[int, ...],
    read: Callable[..., bytes],
    content_files: Callable[[Path], list[Path]],
) -> None:
    parts = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    wanted = [send(store, upload, number, part) for number, part in enumerate(parts, 1)]
    complete(store, upload, *wanted)
    assert read(store, "key") == b"".join(parts)
    assert len(content_files(root)) == 1


def test_last_part_that_comes_first_does_not_harm(
    store: ObjectStore,
    root: Path,
    upload: Upload,
    read: Callable[..., bytes],
    content_files: Callable[[Path], list[Path]],
) -> None:
    last = send(store, upload, 2, b"end")
    first = send(store, upload, 1, b"a" * PART)
    complete(store, upload, first, last)
    assert read(store, "key") == b"a" * PART + b"end"
    assert len(content_files(root)) == 1


def test_part_that_is_sent_again_replaces_the_first(
    store: ObjectStore,
    root: Path,
    upload: Upload,
    read: Callable[..., bytes],
    content_files: Callable[[Path], list[Path]],
    refusal: Callable[..., str],
) -> None:
    old = send(store, upload, 1, b"a" * PART)
    new = send(store, upload, 1, b"b" * PART)
    last = send(store, upload, 2, b"end")
    assert refusal(lambda: complete(store, upload, old, last)) == "InvalidPart"
    complete(store, upload, new, last)
    assert read(store, "key") == b"b" * PART + b"end"
    assert len(content_files(root)) == 1


def test_part_that_broke_off_can_be_sent_again_to_its_place(
    store: ObjectStore, upload: Upload, read: Callable[..., bytes], refusal: Callable[..., str]
) -> None:
    assert refusal(lambda: send(store, upload, 1, b"a" * PART, size=PART - 1)) == "IncompleteBody"
    first = send(store, upload, 1, b"b" * PART)
    last = send(store, upload, 2, b"end")
    complete(store, upload, first, last)
    assert read(store, "key") == b"b" * PART + b"end"


def test_part_that_broke_off_behind_the_last_one_leaves_no_tail(
    store: ObjectStore, upload: Upload, read: Callable[..., bytes]
) -> None:
    def source() -> Iterator[bytes]:
        yield b"tail"
        raise ConnectionResetError

    first = send(store, upload, 1, b"a" * PART)
    with pytest.raises(ConnectionResetError), store.uploads.receiving(upload, 2, PART, source()):
        pass
    stored = complete(store, upload, first)
    assert stored.file == upload.file
    assert read(store, "key") == b"a" * PART


def test_writer_that_hangs_cannot_spoil_the_object(
    store: ObjectStore, upload: Upload, read: Callable[..., bytes]
) -> None:
    """A client that gave up on a part and sent it again, while the endpoint still writes the first try."""
    with pytest.raises(StoreError, match="does not exist"), store.uploads.receiving(upload, 1, PART, [b"z"]) as late:
        first, last = send(store, upload, 1, b"b" * PART), send(store, upload, 2, b"end")
        stored = complete(store, upload, first, last)
        assert stored.file != upload.file
        store.uploads.put_part(upload, 1, late, None)
    assert read(store, "key") == b"b" * PART + b"end"


def test_unwanted_parts_are_dropped(
    store: ObjectStore,
    root: Path,
    upload: Upload,
    read: Callable[..., bytes],
    content_files: Callable[[Path], list[Path]],
) -> None:
    first = send(store, upload, 1, b"a" * PART)
    send(store, upload, 2, b"unwanted")
    complete(store, upload, first)
    assert read(store, "key") == b"a" * PART
    assert len(content_files(root)) == 1


def test_repeated_completion_gives_the_same_answer(store: ObjectStore, upload: Upload) -> None:
    part = send(store, upload, 1, b"only")
    assert complete(store, upload, part) == complete(store, upload, part)


def test_completions_that_are_refused(
    store: ObjectStore, upload: Upload, read: Callable[..., bytes], refusal: Callable[..., str]
) -> None:
    small, last = send(store, upload, 1, b"small"), send(store, upload, 2, b"last")
    assert refusal(lambda: complete(store, upload, small, last)) == "EntityTooSmall"
    assert refusal(lambda: complete(store, upload, last, small)) == "InvalidPartOrder"
    assert refusal(lambda: complete(store, upload, WantedPart(1, "0" * 32))) == "InvalidPart"
    assert refusal(lambda: complete(store, upload)) == "MalformedXML"
    store.put(BUCKET, "key", [b"there"])
    absent = Conditions(if_none_match=True)
    only = [small]
    assert refusal(lambda: store.uploads.complete(BUCKET, "key", upload.id, only, absent)) == "PreconditionFailed"
    assert read(store, "key") == b"there"


def test_abort_removes_all_parts(
    store: ObjectStore,
    root: Path,
    upload: Upload,
    content_files: Callable[[Path], list[Path]],
    refusal: Callable[..., str],
) -> None:
    send(store, upload, 1, b"x")
    send(store, upload, 1, b"y" * 10)
    store.uploads.abort(BUCKET, "key", upload.id)
    assert content_files(root) == []
    assert refusal(lambda: send(store, upload, 1, b"x")) == "NoSuchUpload"
    assert content_files(root) == []


def test_parts_survive_a_sweep(store: ObjectStore, upload: Upload, read: Callable[..., bytes]) -> None:
    part = send(store, upload, 1, b"x")
    store.sweep(older_than_s=-1)
    complete(store, upload, part)
    assert read(store, "key") == b"x"
