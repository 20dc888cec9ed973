"""S3 of the local endpoint on a port of its own."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from launcher.local.s3 import S3Service
from launcher.local.store import ObjectStore
from launcher.local.wsgi_server import LoopbackServer

BUCKET = "bucket"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStore]:
    store = ObjectStore(tmp_path / "s3")
    store.create_bucket(BUCKET)
    yield store
    store.close()


@pytest.fixture
def url(store: ObjectStore) -> Iterator[str]:
    server = LoopbackServer(0, S3Service(store))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.url
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def s3(url: str) -> Iterator[Any]:
    client = _make_client(url)
    yield client
    client.close()


def _make_client(url: str, **config: Any) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"total_max_attempts": 1}, **config),
    )


@pytest.fixture
def wire(url: str) -> Iterator[Callable[..., tuple[http.client.HTTPResponse, bytes]]]:
    """Plain requests, one after the other over one connection."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)

    def ask(method: str, path: str, body: Any = None, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        response = connection.getresponse()
        return response, response.read()

    yield ask
    connection.close()


def _refusal(action: Callable[[], object]) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        action()
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def _get(s3: Any, key: str, **kwargs: Any) -> bytes:
    with s3.get_object(Bucket=BUCKET, Key=key, **kwargs)["Body"] as body:
        return bytes(body.read())


@pytest.fixture
def make_client() -> Callable[..., Any]:
    return _make_client


@pytest.fixture
def refusal() -> Callable[..., tuple[str, int]]:
    """The code and the status with which an action is refused."""
    return _refusal


@pytest.fixture
def get() -> Callable[..., bytes]:
    """An object's bytes."""
    return _get
