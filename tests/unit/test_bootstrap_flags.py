"""The flags of bootstrap: what is refused before anybody is asked, and what passes."""

from __future__ import annotations

import pytest

from launcher.account.templates import find_broken, load_template, shipped_templates
from launcher.cli import account, main, make_parser

TOKEN = "hf_" + "a1B2c3D4e5" * 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--instances", "g5.*"], "--instances is 'g5.*'; it must be types such as ml.g5.xlarge"),
        (["--instances", "ml.g5.*,"], "with a comma between them"),
        (["--instances", "ml.g5.* ml.g6.*"], "with a comma between them"),
        (["--max-runtime", "30s"], "--max-runtime is 30 s; it must be between 60 s and 28 days"),
        (["--max-runtime", "40d"], "--max-runtime is 3,456,000 s"),
        (["--email", "notanemail"], "--email is 'notanemail'; it must be an address"),
        (["--kms-key", "alias/mine"], "--kms-key is 'alias/mine'; it must be a key's ARN"),
        (["--image-repository", "mine"], "it must be a repository's ARN"),
        (["--prefix", "team/"], "--prefix is 'team/'"),
        (["--hf-secret", TOKEN], "--hf-secret holds a Hugging Face token"),
        (["--email", TOKEN], "--email holds a Hugging Face token"),
    ],
)
def test_a_flag_that_aws_would_refuse_is_refused_here(
    capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    """Nobody is signed in: whatever went on to AWS would end with exit code 3."""
    assert main(["bootstrap", "--yes", "--region", "eu-west-1", *words]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert TOKEN not in said


@pytest.mark.parametrize(
    "words",
    [
        ["--instances", " ml.g5.* , ml.p6-b200.48xlarge", "--max-runtime", "28d", "--email", "a.b@c.example.com"],
        ["--kms-key", "arn:aws-cn:kms:cn-north-1:111122223333:key/mrk-1", "--prefix", "a/b.c", "--hf-secret", "hf"],
        ["--kms-key", "", "--email", "", "--image-repository", "", "--hf-secret", ""],
    ],
)
def test_a_flag_that_aws_would_take_passes(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(["bootstrap", "--yes", "--region", "eu-west-1", *words]) == 3
    assert "No AWS credentials were found." in capsys.readouterr().err


def test_spaces_beside_commas_never_reach_the_policy() -> None:
    args = make_parser().parse_args(["bootstrap", "--instances", "ml.g5.*, ml.g6.* "])
    assert account._given(args) == {"InstanceTypes": "ml.g5.*,ml.g6.*"}


def test_the_template_takes_its_own_defaults() -> None:
    for template in shipped_templates():
        known = load_template(template)["Parameters"]
        defaults = {name: str(about["Default"]) for name, about in known.items() if "Default" in about}
        assert find_broken(template, defaults) == {}
