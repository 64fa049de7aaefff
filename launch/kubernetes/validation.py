"""Rules of the Kubernetes API server that its published schemas do not contain."""

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from launch.field_types import DNS_LABEL, LABEL_KEY, LABEL_NAME, quantity

Manifest = dict[str, Any]


def problems(manifest: Manifest) -> list[str]:
    """The violations for which the API server would reject a manifest, a line each."""
    where = f"{manifest.get('kind')}/{manifest.get('metadata', {}).get('name')}"
    violations = [*_labels(manifest), *_parallelism(manifest.get("spec", {}))]
    for spec, kind in _pod_specs(manifest):
        violations += [*_restart_policy(spec, kind), *_containers(spec)]
    return [f"{where}: {text}" for text in violations]


def _pod_specs(node: Any, kind: str = "") -> Iterator[tuple[Manifest, str]]:
    """The pod specs in a manifest, with the kind of the object that owns each."""
    if isinstance(node, list):
        for item in node:
            yield from _pod_specs(item, kind)
    if not isinstance(node, dict):
        return
    kind = "Job" if "completions" in node or "parallelism" in node else node.get("kind", kind)
    if isinstance(node.get("containers"), list):
        yield node, kind
        return
    for child in node.values():
        yield from _pod_specs(child, kind)


def _labels(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _labels(item)
    elif isinstance(node, dict):
        for table in ("labels", "matchLabels", "nodeSelector"):
            for key, value in (node.get(table) or {}).items():
                if not re.fullmatch(LABEL_KEY, key):
                    yield f"{table}: {key!r} is not a label's key"
                if not re.fullmatch(rf"({LABEL_NAME})?", str(value)):
                    yield f"{table}: {value!r} is not a label's value"
        for child in node.values():
            yield from _labels(child)


def _parallelism(spec: Any) -> Iterator[str]:
    if isinstance(spec, list):
        for item in spec:
            yield from _parallelism(item)
    elif isinstance(spec, dict):
        for key in ("parallelism", "completions", "replicas", "backoffLimit", "numNodes"):
            if isinstance(spec.get(key), int) and spec[key] < 0:
                yield f"{key} is {spec[key]}; expected 0 or more"
        mode = spec.get("completionMode", "Indexed")
        if mode not in ("Indexed", "NonIndexed"):
            yield f"completionMode is {mode!r}; expected Indexed or NonIndexed"
        for child in spec.values():
            yield from _parallelism(child)


def _restart_policy(spec: Manifest, kind: str) -> Iterator[str]:
    policy = spec.get("restartPolicy")
    if kind == "Job" and policy not in ("Never", "OnFailure"):
        yield f"restartPolicy is {policy!r}; expected Never or OnFailure in a Job"
    elif policy not in (None, "Always", "Never", "OnFailure"):
        yield f"restartPolicy is {policy!r}; expected Always, Never or OnFailure"


def _containers(spec: Manifest) -> Iterator[str]:
    volumes = {volume["name"] for volume in spec.get("volumes", ())}
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        name = container.get("name", "")
        if not re.fullmatch(DNS_LABEL, name):
            yield f"container name {name!r}; expected lower case letters, digits and hyphens"
        policy = container.get("imagePullPolicy", "Always")
        if policy not in ("Always", "IfNotPresent", "Never"):
            yield f"imagePullPolicy is {policy!r}; expected Always, IfNotPresent or Never"
        paths = [mount.get("mountPath") for mount in container.get("volumeMounts", ())]
        for path in sorted({path for path in paths if paths.count(path) > 1}):
            yield f"mountPath {path} is mounted twice"
        for mount in container.get("volumeMounts", ()):
            if mount.get("name") not in volumes:
                yield f"volumeMount {mount.get('name')!r} names no volume of the pod"
        yield from _resources(container.get("resources", {}))


def _resources(resources: Manifest) -> Iterator[str]:
    amounts: dict[tuple[str, str], Decimal] = {}
    for side in ("requests", "limits"):
        for resource, text in resources.get(side, {}).items():
            try:
                amounts[side, resource] = quantity(str(text))
            except ValueError as error:
                yield f"{side}.{resource}: {error}"
    for (side, resource), amount in amounts.items():
        limit = amounts.get(("limits", resource))
        if side == "requests" and limit is not None and amount > limit:
            yield f"requests.{resource} is more than its limit"
