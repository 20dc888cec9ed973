"""The other services, and bare HTTP."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from launcher.local.lifecycle import Endpoint

BUCKET = "bucket"


# Other services


def test_moto_answers_for_the_other_services(client: Any) -> None:
    assert client.service("sts").get_caller_identity()["Account"] == "123456789012"
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    client.service("iam").create_role(RoleName="trainer", AssumeRolePolicyDocument=trust)
    secret = client.service("secretsmanager").create_secret(Name="token", SecretString="x")
    assert secret["ARN"].startswith("arn:aws:secretsmanager:us-east-1:123456789012:")
    template = json.dumps({"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}})
    client.service("cloudformation").create_stack(StackName="stack", TemplateBody=template)
    assert len(client.service("sqs").list_queues()["QueueUrls"]) == 1
    client.logs.create_log_group(logGroupName="other")
    assert client.logs.describe_log_streams(logGroupName="other")["logStreams"] == []


def test_an_operation_that_nobody_knows_is_refused_at_once(client: Any) -> None:
    status, answer = client.post("SageMaker.TrainJobs", b"{}")
    assert (status, answer["__type"]) == (400, "UnknownOperationException")
    code, _ = client.refusal(client.sagemaker.list_ai_benchmark_jobs)
    assert code == "NotImplementedException"


def test_s3_is_ours_by_every_way_in(client: Any) -> None:
    client.service("s3").put_object(Bucket=BUCKET, Key="known", Body=b"ours")
    url = client.service("s3").generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "known"})
    v2 = Config(signature_version="s3")
    old = boto3.client(
        "s3",
        endpoint_url=client.url,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
        config=v2,
    )
    assert old.get_object(Bucket=BUCKET, Key="known")["Body"].read() == b"ours"
    for address in (url, f"{client.url}/{BUCKET}/known"):
        with urllib.request.urlopen(address) as answer:
            assert answer.read() == b"ours"
    # moto takes what it cannot place for a request to its own S3.
    status, _, _ = client.send("PUT", f"/{BUCKET}/unsigned", body=b"x")
    assert status == 200
    assert client.service("s3").get_object(Bucket=BUCKET, Key="unsigned")["Body"].read() == b"x"
    assert client.send("POST", "/moto-api/reset", body=b"x=1")[0] == 501
    assert client.send("GET", "/moto-api/data.json")[0] == 404


# HTTP


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "10.0.0.1", "", "localhost.evil"])
def test_a_host_name_that_is_not_loopback_is_refused(client: Any, host: str) -> None:
    for path in ("/_local/health", f"/{BUCKET}/known", "/"):
        assert client.send("GET", path, headers={"Host": host})[0] == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:5", "bucket.localhost"])
def test_loopback_names_are_accepted(client: Any, host: str) -> None:
    assert client.send("GET", "/_local/health", headers={"Host": host})[0] == 200


def test_a_page_of_another_site_cannot_write(client: Any) -> None:
    headers = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    assert client.send("POST", "/_local/shutdown", b"", headers)[0] == 403
    assert client.send("GET", "/_local/health", headers={"Origin": client.url})[0] == 200


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_another_user_of_this_machine_is_not_let_in(client: Any) -> None:
    script = (
        "import os, sys, http.client, encodings.idna; os.setuid(65534);"
        "c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=60);"
        "c.request('GET', '/_local/health'); c.getresponse()"
    )
    command = [sys.executable, "-c", script, str(client.address[1])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "RemoteDisconnected" in done.stderr or "ConnectionResetError" in done.stderr


def test_a_connection_serves_many_requests(client: Any) -> None:
    connection = http.client.HTTPConnection(*client.address, timeout=60)
    connection.connect()
    first = connection.sock
    for body in (b"", b"x" * 100_000):  # the second is not read by the route that refuses it
        for _ in range(3):
            connection.request("POST", "/_local/nothing", body)
            answer = connection.getresponse()
            assert answer.read()
            assert answer.status == 404
            assert connection.sock is first
    connection.close()


def test_a_chunked_body_arrives_whole(client: Any) -> None:
    chunks = [b"a" * 10, b"b" * 300_000, b"c"]
    headers = {"Transfer-Encoding": "chunked", **client.sign("s3")}
    assert client.send("PUT", f"/{BUCKET}/chunked", iter(chunks), headers)[0] == 200
    assert client.service("s3").get_object(Bucket=BUCKET, Key="chunked")["Body"].read() == b"".join(chunks)


def talk(client: Any, data: bytes, until: bytes) -> bytes:
    """Send bytes as they are, and read the answer up to a mark or the end."""
    with socket.create_connection(client.address, timeout=60) as connection:
        connection.sendall(data)
        answer = b""
        while until not in answer and (more := connection.recv(65536)):
            answer += more
    return answer


def test_a_client_that_expects_it_is_told_to_go_on(client: Any) -> None:
    head = f"PUT /{BUCKET}/expected HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(client.address, timeout=60) as connection:
        connection.sendall(head.encode())
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"abc")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_refused_upload_is_not_asked_for(client: Any) -> None:
    head = b"POST /_local/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    answer = talk(client, head, b"No route")
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"Connection: close" in answer


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 100\r\n\r\nonly this",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
        b"Content-Length: -5\r\n\r\n",
    ],
)
def test_a_broken_body_leaves_nothing(client: Any, body: bytes) -> None:
    with socket.create_connection(client.address, timeout=60) as connection:
        connection.sendall(f"PUT /{BUCKET}/broken HTTP/1.1\r\nHost: localhost\r\n".encode() + body)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65536)
    assert not answer.startswith(b"HTTP/1.1 2")
    assert "Contents" not in client.service("s3").list_objects_v2(Bucket=BUCKET, Prefix="broken")


def test_big_bodies_stream_through_bounded_memory(client: Any, shared: Endpoint, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    with source.open("wb") as file:
        for number in range(200):
            file.write(number.to_bytes(1, "big") * 1_000_000)
    before = read_peak_memory(shared.pid)
    with source.open("rb") as file:
        client.service("s3").put_object(Bucket=BUCKET, Key="big", Body=file)
    with copy.open("wb") as file:
        for chunk in client.service("s3").get_object(Bucket=BUCKET, Key="big")["Body"].iter_chunks(1 << 20):
            file.write(chunk)
    assert source.read_bytes() == copy.read_bytes()
    assert read_peak_memory(shared.pid) - before < 100_000_000


def read_peak_memory(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
