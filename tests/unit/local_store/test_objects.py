"""The object store on disk: whole objects only, for several processes at once, whatever is killed when."""

from __future__ import annotations

import errno
import io
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.local.store import Attributes, ObjectStore, StoreError
from launcher.local.store_model import Page

BUCKET = "bucket"


def test_put_gives_back_bytes_and_attributes(store: ObjectStore, read: Callable[..., bytes]) -> None:
    attributes = Attributes("text/plain", {"a": "b"}, {"cache-control": "no-store"}, {"tag": "1"})
    put = store.put(BUCKET, "key", io.BytesIO(b"hello"), attributes=attributes)
    assert read(store, "key") == b"hello"
    assert store.head(BUCKET, "key") == put
    assert (put.size, put.etag, put.attributes) == (5, "5d41402abc4b2a76b9719d911017c592", attributes)


def test_put_takes_an_iterable_of_bytes(store: ObjectStore, read: Callable[..., bytes]) -> None:
    store.put(BUCKET, "key", (b"%d" % number for number in range(3)))
    assert read(store, "key") == b"012"


def test_put_file_and_fetch_file_are_inverse(store: ObjectStore, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "new" / "folder" / "target"
    source.write_bytes(bytes(range(256)) * 9000)
    store.put_file(BUCKET, "key", source)
    store.fetch_file(BUCKET, "key", target)
    assert target.read_bytes() == source.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_fetch_of_a_missing_key_leaves_the_old_file(
    store: ObjectStore, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    assert refusal(lambda: store.fetch_file(BUCKET, "absent", target)) == "NoSuchKey"
    assert target.read_bytes() == b"old"
    assert not list(tmp_path.glob(".*partial"))


def test_reader_keeps_the_object_that_it_opened(
    store: ObjectStore, root: Path, read: Callable[..., bytes], content_files: Callable[[Path], list[Path]]
) -> None:
    store.put(BUCKET, "key", [b"old"])
    with store.open(BUCKET, "key")[1] as file:
        store.put(BUCKET, "key", [b"new"])
        assert file.read() == b"old"
    assert read(store, "key") == b"new"
    assert len(content_files(root)) == 1


def test_delete_removes_the_bytes_and_may_be_repeated(
    store: ObjectStore, root: Path, content_files: Callable[[Path], list[Path]], refusal: Callable[..., str]
) -> None:
    store.put(BUCKET, "key", [b"x"])
    store.delete(BUCKET, "key")
    store.delete(BUCKET, "key")
    assert refusal(lambda: store.head(BUCKET, "key")) == "NoSuchKey"
    assert content_files(root) == []


def test_copy_outlives_its_source(
    store: ObjectStore, root: Path, read: Callable[..., bytes], content_files: Callable[[Path], list[Path]]
) -> None:
    store.put(BUCKET, "source", [b"bytes"], attributes=Attributes(tags={"a": "1"}))
    copied = store.copy((BUCKET, "source"), (BUCKET, "target"))
    store.delete(BUCKET, "source")
    assert (read(store, "target"), copied.tags) == (b"bytes", {"a": "1"})
    store.delete(BUCKET, "target")
    assert content_files(root) == []


def test_copy_onto_itself_keeps_the_bytes(store: ObjectStore, read: Callable[..., bytes]) -> None:
    store.put(BUCKET, "key", [b"bytes"])
    store.copy((BUCKET, "key"), (BUCKET, "key"), describe=lambda found: Attributes("text/csv"))
    assert read(store, "key") == b"bytes"
    assert store.head(BUCKET, "key").content_type == "text/csv"


def test_conditions_of_writes(store: ObjectStore, read: Callable[..., bytes], refusal: Callable[..., str]) -> None:
    first = store.put(BUCKET, "key", [b"1"], if_none_match=True)
    assert refusal(lambda: store.put(BUCKET, "key", [b"2"], if_none_match=True)) == "PreconditionFailed"
    assert refusal(lambda: store.put(BUCKET, "key", [b"2"], if_match="other")) == "PreconditionFailed"
    assert refusal(lambda: store.put(BUCKET, "absent", [b"2"], if_match=first.etag)) == "NoSuchKey"
    assert read(store, "key") == b"1"
    store.put(BUCKET, "key", [b"2"], if_match=first.etag)
    assert read(store, "key") == b"2"


def test_condition_is_checked_again_at_the_commit(
    store: ObjectStore,
    root: Path,
    read: Callable[..., bytes],
    content_files: Callable[[Path], list[Path]],
    refusal: Callable[..., str],
) -> None:
    def source() -> Iterator[bytes]:
        store.put(BUCKET, "key", [b"faster"])
        yield b"slower"

    assert refusal(lambda: store.put(BUCKET, "key", source(), if_none_match=True)) == "PreconditionFailed"
    assert read(store, "key") == b"faster"
    assert len(content_files(root)) == 1


def test_of_many_processes_exactly_one_creates_each_key(
    store: ObjectStore, run_python: Callable[..., subprocess.Popen[str]], read: Callable[..., bytes]
) -> None:
    script = """
sys.stdin.readline()
for number in range(60):
    try:
        store.put("bucket", f"key-{number}", [sys.argv[1].encode()], if_none_match=True)
        print(number, flush=True)
    except StoreError as error:
        assert error.code == "PreconditionFailed", error
"""
    writers = [run_python(script, str(writer)) for writer in range(3)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    wins = [writer.communicate(timeout=60)[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert sorted(int(number) for won in wins for number in won) == list(range(60))
    for winner, won in enumerate(wins):
        assert all(read(store, f"key-{number}") == b"%d" % winner for number in won)


def test_first_use_by_several_threads_at_once(root: Path) -> None:
    store = ObjectStore(root)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(store.create_bucket, [f"bucket-{number}" for number in range(16)]))
    assert len(store.list_buckets()) == 16
    store.close()


def test_source_that_breaks_off_leaves_the_old_object(
    store: ObjectStore, root: Path, read: Callable[..., bytes], content_files: Callable[[Path], list[Path]]
) -> None:
    def source() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    store.put(BUCKET, "key", [b"old"])
    with pytest.raises(ConnectionResetError):
        store.put(BUCKET, "key", source())
    assert read(store, "key") == b"old"
    assert len(content_files(root)) == 1


def test_full_disk_is_named_and_leaves_nothing(
    store: ObjectStore, root: Path, content_files: Callable[[Path], list[Path]]
) -> None:
    def source() -> Iterator[bytes]:
        yield b"half"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreError, match="No space left on device. Free some space") as caught:
        store.put(BUCKET, "key", source())
    assert (caught.value.code, caught.value.status) == ("InsufficientStorage", 507)
    assert content_files(root) == []


KILLED_WHILE_WRITING = """
def source():
    yield b"n" * 100_000
    os.kill(os.getpid(), signal.SIGKILL)
store.put("bucket", "key", source())
"""
KILLED_BEFORE_THE_COMMIT = """
with store.receiving([b"new"]):
    os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_AFTER_THE_COMMIT = """
with store.receiving([b"new"]) as content:
    store.commit("bucket", "key", content)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("script", "expected"),
    [(KILLED_WHILE_WRITING, b"old"), (KILLED_BEFORE_THE_COMMIT, b"old"), (KILLED_AFTER_THE_COMMIT, b"new")],
    ids=["while writing", "before the commit", "after the commit"],
)
def test_kill_leaves_the_old_object_or_the_new_one_and_a_sweep_cleans_up(
    store: ObjectStore,
    root: Path,
    run_python: Callable[..., subprocess.Popen[str]],
    script: str,
    expected: bytes,
    read: Callable[..., bytes],
    content_files: Callable[[Path], list[Path]],
) -> None:
    store.put(BUCKET, "key", [b"old"])
    killed = run_python(script)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert read(store, "key") == expected
    store.sweep(older_than_s=3600)
    leftovers = len(content_files(root)) - 1
    assert store.sweep(older_than_s=-1) == leftovers
    assert len(content_files(root)) == 1
    assert read(store, "key") == expected


def test_sweep_leaves_a_young_leftover(
    store: ObjectStore,
    root: Path,
    run_python: Callable[..., subprocess.Popen[str]],
    content_files: Callable[[Path], list[Path]],
) -> None:
    run_python(KILLED_BEFORE_THE_COMMIT).communicate(timeout=60)
    assert store.sweep(older_than_s=3600) == 0
    assert len(content_files(root)) == 1


def test_sweep_leaves_what_is_being_written(store: ObjectStore, root: Path, read: Callable[..., bytes]) -> None:
    other = ObjectStore(root)
    with store.receiving([b"bytes"]) as content:
        assert other.sweep(older_than_s=-1) == 0
        store.commit(BUCKET, "key", content)
    other.close()
    assert read(store, "key") == b"bytes"


def test_damaged_file_is_said_and_not_served(
    store: ObjectStore, root: Path, content_files: Callable[[Path], list[Path]]
) -> None:
    store.put(BUCKET, "key", [b"bytes"])
    content_files(root)[0].write_bytes(b"byt")
    with pytest.raises(StoreError, match="damaged"):
        store.open(BUCKET, "key")
    content_files(root)[0].unlink()
    with pytest.raises(StoreError, match="damaged"):
        store.open(BUCKET, "key")


def test_folder_of_another_layout_is_refused(store: ObjectStore, root: Path) -> None:
    store.close()
    with sqlite3.connect(root / "index.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="layout 99"):
        ObjectStore(root).list_buckets()


def test_bucket_rules(
    store: ObjectStore, root: Path, content_files: Callable[[Path], list[Path]], refusal: Callable[..., str]
) -> None:
    store.create_bucket(BUCKET)
    assert [bucket.name for bucket in store.list_buckets()] == [BUCKET]
    assert store.has_bucket(BUCKET) and not store.has_bucket("other")
    assert refusal(lambda: store.create_bucket("Capital_Letters")) == "InvalidBucketName"
    assert refusal(lambda: store.put("other", "key", [b""])) == "NoSuchBucket"
    store.put(BUCKET, "key", [b""])
    assert refusal(lambda: store.delete_bucket(BUCKET)) == "BucketNotEmpty"
    store.delete(BUCKET, "key")
    store.uploads.create(BUCKET, "unfinished", Attributes())
    store.delete_bucket(BUCKET)
    assert not store.has_bucket(BUCKET)
    assert content_files(root) == []


# Listing

KEYS = st.text(st.sampled_from("ab/é\U0001f600\uffff ."), min_size=1, max_size=6)


def expected_entries(keys: set[str], prefix: str, delimiter: str) -> list[str]:
    """The plain reading of S3's rules, over all keys in memory."""
    entries = set()
    for key in keys:
        if key.startswith(prefix):
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            entries.add(prefix + head + found if found else key)
    return sorted(entries, key=str.encode)


def iter_pages(store: ObjectStore, prefix: str, delimiter: str, limit: int) -> Iterator[Page]:
    start: bytes | None = b""
    while start is not None:
        page = store.list_page(BUCKET, prefix, delimiter=delimiter, start=start, limit=limit)
        yield page
        start = page.next_start


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.sets(KEYS, max_size=12),
    prefix=st.one_of(st.just(""), KEYS),
    delimiter=st.sampled_from(["", "/", "a"]),
    limit=st.integers(1, 4),
)
def test_pages_together_are_the_whole_listing(
    store: ObjectStore, keys: set[str], prefix: str, delimiter: str, limit: int
) -> None:
    for stored in list(store.list(BUCKET)):
        store.delete(BUCKET, stored.key)
    for key in keys:
        store.put(BUCKET, key, [b""])
    pages = list(iter_pages(store, prefix, delimiter, limit))
    sizes = [len(page.objects) + len(page.prefixes) for page in pages]
    assert all(size == limit for size in sizes[:-1])
    entries = [entry for page in pages for entry in (*(o.key for o in page.objects), *page.prefixes)]
    assert len(entries) == len(set(entries))
    assert sorted(entries, key=str.encode) == expected_entries(keys, prefix, delimiter)


def test_list_goes_on_behind_a_key_and_over_pages(store: ObjectStore) -> None:
    for number in range(1203):
        store.put(BUCKET, f"k/{number:04}", [b""])
    store.put(BUCKET, "l", [b""])
    keys = [stored.key for stored in store.list(BUCKET, "k/", after="k/0001")]
    assert keys == [f"k/{number:04}" for number in range(2, 1203)]


def test_list_survives_deletions_while_it_runs(store: ObjectStore) -> None:
    for number in range(30):
        store.put(BUCKET, f"{number:02}", [b""])
    for stored in store.list(BUCKET):
        store.delete(BUCKET, stored.key)
    assert list(store.list(BUCKET)) == []
