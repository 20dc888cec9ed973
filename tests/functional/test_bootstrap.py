"""bootstrap and teardown as a user runs them, against the endpoint on this machine; then submit's search for a site."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.aws.session import open_session
from launcher.aws.site import find_site
from launcher.aws.stacks import find_stack
from launcher.cli import main
from launcher.errors import SiteError
from launcher.recipe import load_recipe

BUCKET = "launcher-123456789012-eu-west-1"
FOREIGN = "Description: somebody's\nResources: {Topic: {Type: 'AWS::SNS::Topic'}}"


@pytest.fixture
def account(endpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Signed in to an account that answers at the local endpoint."""
    from launcher.local.lifecycle import ensure_endpoint

    monkeypatch.setenv("AWS_ENDPOINT_URL", ensure_endpoint().url)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    session = open_session("aws")
    yield session
    for name in ("launcher-schedule", "launcher", "mine"):
        if find_stack(session, name):
            session.client("cloudformation").delete_stack(StackName=name)
    if any(bucket["Name"] == BUCKET for bucket in session.client("s3").list_buckets()["Buckets"]):
        session.client("s3").delete_bucket(Bucket=BUCKET)


def on_aws(**overrides: Any) -> Any:
    return load_recipe(None, {"compute.instance": "ml.g5.xlarge", **overrides})


def test_from_nothing_to_a_site_and_back(account, capsys) -> None:
    with pytest.raises(SiteError, match="needs a role and bucket.*eu-west-1 has no stack launcher"):
        find_site(account, on_aws())

    assert main(["bootstrap", "--yes", "--json", "--email", "me@example.com"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["status"], made["outputs"]["BucketName"]) == ("created", BUCKET)
    assert {change["resource"] for change in made["changes"]} >= {"Bucket", "JobRole", "LauncherPolicy", "FailedJobs"}

    site = find_site(account, on_aws())
    assert (site.account, site.region) == ("123456789012", "eu-west-1")
    assert (site.bucket, site.role) == (made["outputs"]["BucketName"], made["outputs"]["RoleArn"])
    account.client("s3").head_bucket(Bucket=site.bucket)
    account.client("iam").get_role(RoleName=made["outputs"]["RoleName"])
    account.client("iam").get_policy(PolicyArn=made["outputs"]["LauncherPolicyArn"])

    assert main(["bootstrap", "--yes"]) == 0
    assert "nothing to change" in capsys.readouterr().err
    assert main(["bootstrap", "--yes", "--json", "--max-runtime", "2h"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "updated"
    assert find_stack(account, "launcher").parameters["MaxRuntime"] == "7200"
    assert find_stack(account, "launcher").parameters["NoticeEmail"] == "me@example.com"  # as it was

    assert main(["teardown", "--yes"]) == 0
    assert "which is empty" in capsys.readouterr().err
    assert find_stack(account, "launcher") is None
    assert site.bucket not in [bucket["Name"] for bucket in account.client("s3").list_buckets()["Buckets"]]
    assert main(["teardown", "--yes"]) == 0
    assert "nothing to delete" in capsys.readouterr().err


def test_a_bucket_with_something_in_it_is_kept(account, capsys) -> None:
    assert main(["bootstrap", "--yes"]) == 0
    bucket = find_stack(account, "launcher").outputs["BucketName"]
    account.client("s3").put_object(Bucket=bucket, Key="launcher/output/x", Body=b"adapter")
    assert main(["teardown", "--yes", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out[said.out.index("{") :])["kept"] == [bucket]
    assert f"kept: the bucket {bucket}" in said.err
    assert account.client("s3").get_object(Bucket=bucket, Key="launcher/output/x")["Body"].read() == b"adapter"
    account.client("s3").delete_object(Bucket=bucket, Key="launcher/output/x")
    account.client("s3").delete_bucket(Bucket=bucket)


def test_teardown_takes_schedules_along_and_a_wrong_name_is_no_teardown(account, capsys) -> None:
    assert main(["bootstrap", "--yes", "--schedules"]) == 0
    capsys.readouterr()

    assert main(["teardown", "--yes", "--stack-name", "launcher-schedules"]) == 2
    said = capsys.readouterr().err
    assert "There is no stack launcher-schedules" in said
    assert "--stack-name launcher-schedule`" in said

    assert main(["teardown", "--yes", "--json"]) == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert report["deleted"] == ["launcher-schedule", "launcher"]
    assert report["kept"] == ["launcher-schedules-dead"]
    assert find_stack(account, "launcher-schedule") is find_stack(account, "launcher") is None


def test_what_the_recipe_names_wins_over_the_stack(account, monkeypatch) -> None:
    assert main(["bootstrap", "--yes", "--stack-name", "mine"]) == 0
    monkeypatch.setenv("LAUNCHER_STACK", "mine")
    site = find_site(account, on_aws(**{"compute.role": "my-role"}))
    assert site.role == "arn:aws:iam::123456789012:role/my-role"
    assert site.bucket == BUCKET
    for prefix in ("other", "launcher/team"):  # there the role may read, and not write what the job leaves
        with pytest.raises(SiteError, match=f"may only use launcher/ in its bucket, and output.prefix is {prefix}"):
            find_site(account, on_aws(**{"output.prefix": prefix}))


def test_without_a_terminal_it_needs_yes_and_leaves_nothing(account, capsys) -> None:
    assert main(["bootstrap"]) == 2
    said = capsys.readouterr()
    assert "Add --yes" in said.err
    assert "add     Bucket" in said.out
    assert find_stack(account, "launcher") is None


def test_on_a_terminal_it_asks_and_no_means_no(account, tmp_path: Path) -> None:
    mine, theirs = pty.openpty()
    words = [sys.executable, "-m", "launcher", "bootstrap"]
    with subprocess.Popen(
        words, cwd=tmp_path, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, text=True
    ) as process:
        os.close(theirs)
        os.write(mine, b"n\n")
        out, _ = process.communicate(timeout=60)
        said = os.read(mine, 65536).decode()
    os.close(mine)
    assert process.returncode == 2
    assert "add     JobRole" in out
    assert "in account 123456789012? [y/N]" in said
    assert find_stack(account, "launcher") is None


@pytest.mark.parametrize("verb", ["bootstrap", "teardown"])
def test_a_stack_of_somebody_else_is_left_alone(account, capsys, verb: str) -> None:
    account.client("cloudformation").create_stack(StackName="mine", TemplateBody=FOREIGN)
    before = find_stack(account, "mine")
    assert main([verb, "--yes", "--stack-name", "mine"]) == 3
    assert "The stack mine is not the launcher's" in capsys.readouterr().err
    assert find_stack(account, "mine") == before


def test_a_secret_is_found_by_its_name(account, capsys) -> None:
    assert main(["bootstrap", "--yes", "--hf-secret", "hf"]) == 3
    assert "There is no secret hf in eu-west-1" in capsys.readouterr().err
    assert find_stack(account, "launcher") is None
    arn = account.client("secretsmanager").create_secret(Name="hf", SecretString="hf_x")["ARN"]
    assert main(["bootstrap", "--yes", "--hf-secret", "hf"]) == 0
    assert find_stack(account, "launcher").parameters["HfSecretArn"] == arn
    account.client("secretsmanager").delete_secret(SecretId="hf", ForceDeleteWithoutRecovery=True)
