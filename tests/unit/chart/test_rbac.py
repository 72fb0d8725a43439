"""What the chart lets anybody do: nothing by a wildcard, no Secrets, and the same whichever way it is scoped."""

from collections.abc import Iterator
from typing import Any

import pytest
from peftjob_operator.settings import RIGHTS
from peftjob_testkit.chart import Render

Right = tuple[str, str, str]
"""API group, resource (with its subresource), verb."""
FORBIDDEN_VERBS = {"*", "escalate", "bind", "impersonate"}
FORBIDDEN_RESOURCES = {"*", "secrets", "pods/exec", "pods/attach", "serviceaccounts/token"}


def rights(rules: list[dict[str, Any]]) -> Iterator[Right]:
    for rule in rules:
        assert set(rule) == {"apiGroups", "resources", "verbs"}
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    yield group, resource, verb


def roles(objects: list[dict[str, Any]], kind: str, name: str) -> list[dict[str, Any]]:
    return [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]


SCOPES = pytest.mark.parametrize(
    "values",
    [pytest.param({}, id="the whole cluster"), pytest.param({"watchNamespaces": ["a", "b"]}, id="two namespaces")],
)


@SCOPES
def test_no_wildcard_no_secret_and_no_way_to_more_rights(values: dict[str, Any], render: Render) -> None:
    found = [o for o in render(values) if o["kind"] in ("Role", "ClusterRole")]
    assert found
    for role in found:
        listed = list(rights(role["rules"]))
        assert len(listed) == len(set(listed)), f"{role['metadata']['name']} grants something twice"
        for group, resource, verb in listed:
            assert group != "*"
            assert resource not in FORBIDDEN_RESOURCES
            assert not resource.endswith("/*")
            assert verb not in FORBIDDEN_VERBS


@SCOPES
def test_every_binding_binds_the_operators_account_to_the_operators_role(
    values: dict[str, Any], render: Render
) -> None:
    bindings = [o for o in render(values) if o["kind"] in ("RoleBinding", "ClusterRoleBinding")]
    assert len(bindings) == len(values.get("watchNamespaces", ["the cluster"]))
    for binding in bindings:
        assert binding["roleRef"]["name"] == "peftjob-operator"
        assert binding["roleRef"]["kind"] == binding["kind"].removesuffix("Binding")
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "peftjob-operator", "namespace": "peftjob-system"}
        ]


@SCOPES
def test_the_operator_may_do_what_its_code_does_and_nothing_else(values: dict[str, Any], render: Render) -> None:
    objects = render(values)
    scoped = bool(values)
    found = roles(objects, "Role" if scoped else "ClusterRole", "peftjob-operator")
    assert [role["metadata"].get("namespace") for role in found] == values.get("watchNamespaces", [None])
    assert not roles(objects, "ClusterRole" if scoped else "Role", "peftjob-operator")
    want = {(group, resource, verb) for (group, resource), verbs in RIGHTS.items() for verb in verbs}
    for role in found:
        assert set(rights(role["rules"])) == want


def test_roles_of_users_extend_the_clusters_own(render: Render) -> None:
    objects = render({})
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    extends = {}
    for name in ("peftjob-operator-user-edit", "peftjob-operator-user-view"):
        (role,) = roles(objects, "ClusterRole", name)
        extends[name] = {label.removeprefix(prefix) for label in role["metadata"]["labels"] if label.startswith(prefix)}
        assert {(group, resource.partition("/")[0]) for group, resource, _ in rights(role["rules"])} == {
            ("peftjob.io", "peftjobs")
        }
    assert extends == {
        "peftjob-operator-user-edit": {"admin", "edit"},
        "peftjob-operator-user-view": {"admin", "edit", "view"},
    }
    (view,) = roles(objects, "ClusterRole", "peftjob-operator-user-view")
    assert {verb for _, _, verb in rights(view["rules"])} == {"get", "list", "watch"}


def test_roles_of_users_can_be_left_to_others(render: Render) -> None:
    assert not any("user" in o["metadata"]["name"] for o in render({"userRoles": {"create": False}}))
