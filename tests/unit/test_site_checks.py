"""Places that do not go together are refused before anything is uploaded."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.stub import Stubber

from launcher.aws.session import Session, open_session
from launcher.aws.site import find_site, offline_site
from launcher.aws.site_checks import check_bucket, check_places
from launcher.errors import CredentialsError, RecipeError, SiteError
from launcher.recipe import load_recipe
from launcher.request import Site

SITE = Site("123456789012", "us-east-1", "mine", "arn:aws:iam::123456789012:role/trainer")


@pytest.fixture
def session() -> Session:
    return Session("aws", "us-east-1", credentials=("key", "secret"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image.uri", "123456789012.dkr.ecr.eu-west-1.amazonaws.com/mine:1"),
        ("output.kms_key", "arn:aws:kms:eu-west-1:123456789012:key/1"),
        ("secrets.hf_token", "arn:aws:secretsmanager:eu-west-1:123456789012:secret:hub-AbCdEf"),
    ],
)
def test_what_lies_in_another_region_is_refused(key: str, value: str) -> None:
    with pytest.raises(SiteError, match="which lies in eu-west-1; the job runs in us-east-1") as caught:
        check_places(load_recipe(None, {key: value}), SITE)
    assert key in caught.value.message
    assert "compute.region" in caught.value.hint
    check_places(load_recipe(None, {key: value.replace("eu-west-1", "us-east-1")}), SITE)


def test_names_without_a_region_pass() -> None:
    check_places(load_recipe(None, {"image.uri": "registry.example/mine:1", "secrets.hf_token": "hub"}), SITE)


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("s3://mine", "Give the name alone, without s3://: mine."),
        ("s3://mine/deep/er/", 'without s3://: mine, with output.prefix = "deep/er" for the folder'),
        ("a-b/c", 'without s3://: a-b, with output.prefix = "c"'),
        ("arn:aws:s3:::mine", "without s3://: mine."),
        ("my bucket", "letters, digits, dots and dashes"),
        ("s3://", "letters, digits, dots and dashes"),
    ],
)
def test_what_is_no_bucket_s_name_is_refused_where_it_is_written(
    name: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match="output.bucket is .* not a bucket's name") as refused:
        load_recipe(None, {"output.bucket": name})
    assert fix in refused.value.hint
    assert refused.value.exit_code == 2
    monkeypatch.setenv("LAUNCHER_BUCKET", name)
    with pytest.raises(RecipeError, match="LAUNCHER_BUCKET is"):
        offline_site(load_recipe(None, {"compute.instance": "ml.g5.xlarge"}))
    for good in ("mine", "my.own-bucket-1", "An_Old_Bucket"):
        assert offline_site(load_recipe(None, {"output.bucket": good})).bucket == good


def test_a_role_of_another_account_is_refused(session: Session) -> None:
    recipe = load_recipe(None, {"compute.role": "arn:aws:iam::999999999999:role/theirs", "output.bucket": "mine"})
    with Stubber(session.client("sts")) as stubber, pytest.raises(SiteError, match="account 999999999999") as caught:
        stubber.add_response("get_caller_identity", {"Account": "123456789012"})
        find_site(session, recipe)
    assert "own account only" in caught.value.hint


@pytest.mark.parametrize(
    ("code", "status", "region", "says"),
    [
        ("", 200, "eu-west-1", "mine lies in eu-west-1; the job runs in us-east-1"),
        ("301", 301, "eu-west-1", "mine lies in eu-west-1"),
        ("403", 403, "eu-west-1", "mine lies in eu-west-1"),
        ("404", 404, "", "looking for the bucket mine"),
        ("403", 403, "", "looking for the bucket mine"),
    ],
)
def test_a_bucket_of_another_region_or_none_is_refused(
    session: Session, code: str, status: int, region: str, says: str
) -> None:
    with Stubber(session.client("s3")) as stubber, pytest.raises(SiteError, match=says) as caught:
        _answer(stubber, code, status, region)
        check_bucket(session, "mine")
    assert caught.value.hint


@pytest.mark.parametrize(("code", "status"), [("", 200), ("403", 403)])
def test_a_bucket_here_passes_even_when_looking_at_it_is_forbidden(session: Session, code: str, status: int) -> None:
    with Stubber(session.client("s3")) as stubber:
        _answer(stubber, code, status, "us-east-1")
        check_bucket(session, "mine")
        stubber.assert_no_pending_responses()


def _answer(stubber: Stubber, code: str, status: int, region: str) -> None:
    headers = {"x-amz-bucket-region": region} if region else {}
    meta: dict[str, Any] = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    if code:
        stubber.add_client_error("head_bucket", code, http_status_code=status, response_meta={"HTTPHeaders": headers})
    else:
        stubber.add_response("head_bucket", {"ResponseMetadata": meta})


def test_a_profile_that_is_not_there_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "absent")
    with pytest.raises(CredentialsError, match="absent") as caught:
        open_session("aws", "us-east-1")
    assert "aws sso login" in caught.value.hint
