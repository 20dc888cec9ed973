"""Who is signed in, what they may do, and whom a role trusts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.aws.errors import explained

SERVICE = "sagemaker.amazonaws.com"
Context = str | Sequence[str]  # of a simulated request; a list where the key has several values


@dataclass(frozen=True)
class Identity:
    account: str
    arn: str

    @property
    def is_root(self) -> bool:
        return self.arn.endswith(":root")

    @property
    def role_name(self) -> str:
        """Of an assumed role; empty for a user."""
        kind, _, rest = self.arn.rpartition(":")[2].partition("/")
        return rest.partition("/")[0] if kind == "assumed-role" else ""


@dataclass(frozen=True)
class Permission:
    """Actions that must be allowed on a resource."""

    actions: tuple[str, ...]
    resource: str = "*"


def fetch_identity(sts: Any) -> Identity:
    with explained("asking who is signed in"):
        answer = sts.get_caller_identity()
    return Identity(answer["Account"], answer["Arn"])


def find_principal(iam: Any, identity: Identity) -> str:
    """The ARN that policies hang on: an assumed role's session has none, and the role's own may have a path."""
    if not identity.role_name:
        return identity.arn
    with explained(f"looking at the role {identity.role_name}"):
        return str(iam.get_role(RoleName=identity.role_name)["Role"]["Arn"])


def find_denied(iam: Any, principal: str, wanted: Permission, context: Mapping[str, Context]) -> list[str]:
    """The actions that the principal may not take there, each with how it is denied."""
    entries = [_context_entry(key, value) for key, value in context.items()]
    with explained("simulating the permissions"):
        answer = iam.simulate_principal_policy(
            PolicySourceArn=principal,
            ActionNames=list(wanted.actions),
            ResourceArns=[wanted.resource],
            ContextEntries=entries,
        )
    return [_denial(result) for result in answer["EvaluationResults"] if result["EvalDecision"] != "allowed"]


def _context_entry(key: str, value: Context) -> dict[str, Any]:
    if not isinstance(value, str):
        return {"ContextKeyName": key, "ContextKeyValues": list(value), "ContextKeyType": "stringList"}
    kind = "numeric" if value.isdecimal() else "string"
    return {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": kind}


def _denial(result: dict[str, Any]) -> str:
    words = result["EvalActionName"]
    return f"{words} (by an explicit deny)" if result["EvalDecision"] == "explicitDeny" else str(words)


def fetch_trust(iam: Any, role_name: str) -> dict[str, Any]:
    """A role's trust policy."""
    with explained(f"looking at the role {role_name}"):
        # botocore has decoded the document
        return dict(iam.get_role(RoleName=role_name)["Role"]["AssumeRolePolicyDocument"])


def trusts_sagemaker(trust: dict[str, Any]) -> bool:
    return any(
        statement.get("Effect") == "Allow"
        and "sts:AssumeRole" in _listed(statement.get("Action"))
        and SERVICE in _listed(_services(statement.get("Principal")))
        for statement in _listed(trust.get("Statement"))
    )


def _services(principal: Any) -> Any:
    return principal.get("Service") if isinstance(principal, dict) else principal


def _listed(value: Any) -> Sequence[Any]:
    """IAM writes a list of one as the one itself."""
    return value if isinstance(value, list) else [] if value is None else [value]
