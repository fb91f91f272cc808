"""Kubernetes: the manifests as kustomize makes them and the chart as Helm renders it, against schemas and rules."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ports import free_port
from redis_server import find_server
from waiting import wait_until

from relayd.config.compile import compile_tree
from relayd.config.snapshot import Server

if os.environ.get("CI"):
    import helm_python as helm
else:
    helm = pytest.importorskip("helm_python")  # there are no wheels of it for some machines

ROOT = Path(__file__).parents[2]
OVERLAYS = ROOT / "deploy/kubernetes/overlays"
CHART = ROOT / "deploy/helm/relayd"
KUBECTL = Path(sys.executable).with_name("kubectl")
VERSIONS = ["1.30", "1.37"]  # the oldest that has what is used (the sleep of preStop), the newest that there is

Object = dict[str, Any]
Manifests = dict[tuple[str, str], Object]


def manifests(text: str) -> Manifests:
    found = [one for one in yaml.safe_load_all(text) if one]
    assert len({(one["kind"], one["metadata"]["name"]) for one in found}) == len(found)
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def kustomized(overlay: str) -> Manifests:
    return manifests(subprocess.check_output([KUBECTL, "kustomize", OVERLAYS / overlay], text=True, timeout=60))


def rendered(values: Object, name: str = "relayd") -> Manifests:
    with helm.Chart.load(CHART) as chart:
        files = chart.render(values, name=name, namespace="relayd")
    return manifests("\n---\n".join(text for path, text in files.items() if path.endswith(".yaml")))


def example_tree() -> dict[str, str]:
    tree = OVERLAYS / "configmap/tree"
    return {str(path.relative_to(tree)): path.read_text() for path in sorted(tree.rglob("*.toml"))}


SOURCE = {"source": {"url": "git+ssh://git@git.example.com/relay-config.git#main"}}
EVERYTHING: Object = {
    **SOURCE,
    "image": {"tag": "1.2.3", "pullSecrets": ["registry"]},
    "redis": {"storageClass": "fast"},
    "storageClass": "fast",
    "autoscaling": {"enabled": False},
    "replicas": 3,
    "service": {"type": "LoadBalancer"},
    "ingress": {"enabled": True, "className": "traefik", "annotations": {"example.com/buffering": "off"}},
    "networkPolicy": {"egress": [{"ports": [{"port": 3128}]}]},
    "env": {"RELAYD_ORIGINS": "https://llm.example.com"},
    "podAnnotations": {"example.com/scrape": "true"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "relay", "operator": "Exists"}],
}
EVERYTHING["source"] = {**SOURCE["source"], "signers": True}
OUTER_STATE = {
    **SOURCE,
    "state": {"url": "rediss://db.example.com/0", "passwordSecret": ""},
    "redis": {"enabled": False},
}


@pytest.fixture(scope="module")
def variants() -> dict[str, Manifests]:
    """Everything that this repository makes for Kubernetes."""
    return {
        "overlay configmap": kustomized("configmap"),
        "overlay source": kustomized("source"),
        "chart with a tree": rendered({"tree": example_tree()}),
        "chart with a source": rendered(SOURCE),
        "chart with everything": rendered(EVERYTHING, name="prod"),
        "chart with a store elsewhere": rendered(OUTER_STATE),
    }


def every_object(variants: Mapping[str, Manifests], *kinds: str) -> Iterator[tuple[str, Object]]:
    for variant, objects in variants.items():
        for (kind, name), one in objects.items():
            if not kinds or kind in kinds:
                yield f"{variant}: {kind}/{name}", one


def test_everything_is_valid_for_the_oldest_and_the_newest_kubernetes(variants: dict[str, Manifests]) -> None:
    different = {json.dumps(one, sort_keys=True): (place, one) for place, one in every_object(variants)}
    for place, one in different.values():
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(one, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                raise AssertionError(f"{place}: {version}: {error}") from None


def test_the_schemas_find_what_is_wrong(variants: dict[str, Manifests]) -> None:
    workload = json.loads(json.dumps(variants["overlay source"]["StatefulSet", "relayd"]))
    workload["spec"]["template"]["spec"]["containers"][0]["readinessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(workload, VERSIONS[0], strict=True)


def test_pods_keep_to_the_restricted_standard_and_write_only_to_volumes(variants: dict[str, Manifests]) -> None:
    """Source: Kubernetes documentation, "Pod Security Standards", Restricted."""
    for place, workload in every_object(variants, "StatefulSet"):
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, place
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, place
        assert pod["automountServiceAccountToken"] is False, place
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), place
        for volume in pod.get("volumes", ()):
            assert set(volume) - {"name"} <= {"configMap", "emptyDir", "secret"}, place
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, place
            assert own["readOnlyRootFilesystem"] is True, place
            assert own["capabilities"] == {"drop": ["ALL"]}, place
            assert "memory" in container["resources"]["limits"], place


def test_names_that_one_object_has_for_another_are_there(variants: dict[str, Manifests]) -> None:
    for variant, objects in variants.items():
        pods = {name: one["spec"]["template"] for (kind, name), one in objects.items() if kind == "StatefulSet"}
        labels = [pod["metadata"]["labels"] for pod in pods.values()]

        def chosen(selector: Mapping[str, str], labels: list[dict[str, str]] = labels) -> int:
            return sum(selector.items() <= those.items() for those in labels)

        ports = {port["name"] for pod in pods.values() for port in pod["spec"]["containers"][0]["ports"]}
        for (kind, name), one in objects.items():
            spec = one.get("spec", {})
            if kind == "Service":
                assert chosen(spec["selector"]) == 1, (variant, name)
                assert {port["targetPort"] for port in spec["ports"]} <= ports
            elif kind == "StatefulSet":
                assert ("Service", spec["serviceName"]) in objects
                assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"], (variant, name)
            elif kind == "PodDisruptionBudget":
                assert chosen(spec["selector"]["matchLabels"]) == 1, variant
            elif kind == "NetworkPolicy":
                assert chosen(spec["podSelector"]["matchLabels"]) == 1, variant
                named = [port["port"] for rule in spec["ingress"] for port in rule["ports"]]
                assert set(named) <= ports, variant
            elif kind == "HorizontalPodAutoscaler":
                assert spec["scaleTargetRef"]["name"] in pods, variant
                assert "replicas" not in objects["StatefulSet", spec["scaleTargetRef"]["name"]]["spec"], variant


def test_the_guide_makes_the_secrets_that_pods_want(variants: dict[str, Manifests]) -> None:
    guide = (ROOT / "docs/containers.md").read_text()
    for place, workload in every_object({"overlay source": variants["overlay source"]}, "StatefulSet"):
        pod = workload["spec"]["template"]["spec"]
        wanted = {one["secret"]["secretName"] for one in pod.get("volumes", ()) if "secret" in one}
        wanted |= {
            one["valueFrom"]["secretKeyRef"]["name"] for one in pod["containers"][0]["env"] if "valueFrom" in one
        }
        assert wanted, place
        for name in wanted:
            assert f"create secret generic {name} " in guide, place


def test_a_pod_has_longer_to_end_than_its_calls_have_to_finish(variants: dict[str, Manifests]) -> None:
    drain = Server().drain_timeout
    found = 0
    for place, workload in every_object(variants, "StatefulSet"):
        pod = workload["spec"]["template"]["spec"]
        if "lifecycle" in pod["containers"][0]:
            hooks = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
            probe = pod["containers"][0]["readinessProbe"]
            assert pod["terminationGracePeriodSeconds"] >= hooks + drain + 30, place
            assert hooks >= probe["periodSeconds"] * probe["failureThreshold"], place
            found += 1
    assert found == len(variants)


def test_the_chart_makes_what_kustomize_makes(variants: dict[str, Manifests]) -> None:
    for overlay, chart in (("configmap", "tree"), ("source", "source")):
        by_hand = _comparable(variants[f"overlay {overlay}"])
        by_helm = _comparable(variants[f"chart with a {chart}"])
        assert set(by_hand) - set(by_helm) == {("Namespace", "relayd")}
        for name, one in by_helm.items():
            assert one == by_hand[name], name


def _comparable(objects: Manifests) -> Manifests:
    """Without what the two ways say each in their own way: the namespace, where images come from, orders of lists."""
    found = json.loads(json.dumps([[*name, one] for name, one in objects.items()]))
    for _, _, one in found:
        one["metadata"].pop("namespace", None)
        one["metadata"].pop("labels", None)
        for pod in [one["spec"]["template"]["spec"]] if one["kind"] == "StatefulSet" else []:
            for container in pod["containers"]:
                container.pop("imagePullPolicy", None)
                container["env"] = sorted(
                    (each for each in container["env"] if each["name"] != "RELAYD_SOURCE_INTERVAL"),
                    key=lambda each: str(each["name"]),
                )
                container["volumeMounts"].sort(key=lambda each: str(each["name"]))
            for claim in one["spec"]["volumeClaimTemplates"]:
                claim["metadata"].pop("labels", None)
            pod.setdefault("volumes", []).sort(key=lambda each: str(each["name"]))
            for volume in pod["volumes"]:
                if "configMap" in volume:
                    volume["configMap"]["items"].sort(key=lambda each: str(each["key"]))
    return {(kind, name): one for kind, name, one in found}


@pytest.mark.parametrize("variant", ["overlay configmap", "chart with a tree"])
def test_the_config_map_is_mounted_as_the_tree(variants: dict[str, Manifests], variant: str) -> None:
    objects = variants[variant]
    content = objects["ConfigMap", "relayd-tree"]["data"]
    pod = objects["StatefulSet", "relayd"]["spec"]["template"]["spec"]
    volume = next(one["configMap"] for one in pod["volumes"] if one["name"] == "tree")
    assert volume["name"] == "relayd-tree"
    assert {item["path"]: content[item["key"]] for item in volume["items"]} == example_tree()
    assert len(volume["items"]) == len(content)


def test_the_tree_of_the_example_is_right() -> None:
    compiled = compile_tree({path: text.encode() for path, text in example_tree().items()})
    assert [*compiled.problems] == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "tree or source.url: one of them must say"),
        ({**SOURCE, "tree": {"relay.toml": "schema = 1"}}, "only one of them"),
        ({**SOURCE, "replica": 3}, "additional properties 'replica' not allowed"),
        ({**SOURCE, "redis": {"enabled": False}}, "state.url: needed"),
        ({**SOURCE, "state": {"passwordSecret": ""}}, "state.passwordSecret: the Redis of this chart has a password"),
        ({**SOURCE, "state": {"url": "sqlite:var/x.db"}}, "does not match pattern"),
        ({"tree": {"accounts.d/Main.toml": "x"}}, "accounts.d/Main.toml"),
        ({**SOURCE, "env": {"PATH": "/"}}, "PATH"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: Object, message: str) -> None:
    with pytest.raises(helm.HelmError, match=message.replace(".", r"\.")):
        rendered(values)


def test_the_chart_lints_and_its_schema_knows_exactly_its_values() -> None:
    report = helm.lint(CHART, values=SOURCE, strict=True)
    assert [one["error"] for one in report["messages"]] == ["icon is recommended"]
    assert report["errors"] == []
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(_schema_paths(schema)) - {"global"} == set(
        _value_paths(yaml.safe_load((CHART / "values.yaml").read_text()))
    )


FREE = {"tree", "resources", "annotations", "env", "podAnnotations", "nodeSelector", "egress", "tolerations"}


def _value_paths(values: Object, at: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict) and name not in FREE:
            yield from _value_paths(value, f"{at}{name}.")
        else:
            yield f"{at}{name}"


def _schema_paths(schema: Object, at: str = "") -> Iterator[str]:
    for name, part in schema["properties"].items():
        if "properties" in part:
            yield from _schema_paths(part, f"{at}{name}.")
        else:
            yield f"{at}{name}"


def test_redis_starts_with_its_password_and_never_evicts(variants: dict[str, Manifests], tmp_path: Path) -> None:
    """The container's own command, with a redis-server of this machine."""
    container = variants["overlay source"]["StatefulSet", "relayd-redis"]["spec"]["template"]["spec"]["containers"][0]
    (tmp_path / "redis-server").symlink_to(find_server())
    port = free_port()
    words = [str(tmp_path) if word == "/data" else word for word in [*container["command"], *container["args"]]]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REDIS_PASSWORD": "c0ffee"}
    process = subprocess.Popen(
        [*words, "--port", str(port), "--bind", "127.0.0.1"], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: _says(port, "PING").startswith(b"-NOAUTH"), "Redis")
        policy = _says(port, "AUTH c0ffee", "CONFIG GET maxmemory-policy", "CONFIG GET appendonly")
        assert b"noeviction" in policy
        assert b"yes" in policy
        assert b"c0ffee" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    finally:
        process.terminate()
        assert process.wait(30) == 0


def _says(port: int, *commands: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.sendall("".join(f"{command}\r\n" for command in (*commands, "QUIT")).encode())
        return b"".join(iter(lambda: sock.recv(4096), b""))
