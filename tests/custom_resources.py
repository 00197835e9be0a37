"""Kubernetes' custom resources against their definitions, as strictly as `kubectl apply --validate=strict` would be.

What a definition asks by expressions (`x-kubernetes-validations`) is not looked at.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

KEEPS_UNKNOWN = "x-kubernetes-preserve-unknown-fields"


def schema(file: Path, version: str) -> dict[str, Any]:
    """The schema of one version, closed, out of an xz-compressed custom resource definition."""
    definition = yaml.load(lzma.decompress(file.read_bytes()), Loader=yaml.CSafeLoader)
    [found] = [known for known in definition["spec"]["versions"] if known["name"] == version]
    root = found["schema"]["openAPIV3Schema"]
    both = {"apiVersion": f"{definition['spec']['group']}/{version}", "kind": definition["spec"]["names"]["kind"]}
    named = {name: {"const": value} for name, value in both.items()}
    open_metadata = {"metadata": {KEEPS_UNKNOWN: True}}  # any object's, which the definition leaves to Kubernetes
    return closed({**root, "properties": {**root["properties"], **named, **open_metadata}, "required": ["spec"]})


def closed(node: Any) -> Any:
    """The schema with every object refusing fields that it does not name, unless it says that it keeps them."""
    if not isinstance(node, dict):
        return node
    mended = {key: closed(value) for key, value in node.items() if key not in ("properties", "items", "default")}
    if "items" in node:
        mended["items"] = closed(node["items"])
    if "properties" in node:
        mended["properties"] = {name: closed(value) for name, value in node["properties"].items()}
    if node.get("type") == "object" and "additionalProperties" not in node and not node.get(KEEPS_UNKNOWN):
        mended["additionalProperties"] = False
    if node.get("nullable"):
        mended = {"anyOf": [{"type": "null"}, mended]}
    return mended


def problems(manifest: dict[str, Any], closed_schema: dict[str, Any]) -> list[str]:
    """What is wrong with an object, each with its place; empty where nothing is."""
    found = Draft202012Validator(closed_schema).iter_errors(manifest)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def misspelt(node: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Copies of an object, each with another of its keys misspelt, after the place of that key."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield (*place, key), {f"{name}x" if name == key else name: held for name, held in node.items()}
            for where, changed in misspelt(value, (*place, key)):
                yield where, {**node, key: changed}
    elif isinstance(node, list):
        for number, value in enumerate(node):
            for where, changed in misspelt(value, (*place, number)):
                yield where, [*node[:number], changed, *node[number + 1 :]]
