"""The shipped manifest holds together, and a bad one is refused before anything is fetched."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from serving.weights import Manifest
from serving.weights.manifest import HubSource, PackageSource, UrlSource

ENTRY = """
[artifacts.net]
filename = "net.bin"
sha256 = "{sha256}"
size = {size}
licence = "{licence}"
note = ""
[[artifacts.net.sources]]
{source}
"""
GOOD = {
    "sha256": "0" * 64,
    "size": "3",
    "licence": "Apache-2.0",
    "source": 'kind = "url"\nurl = "https://example.org/net.bin"',
}


def test_the_shipped_manifest_names_what_the_mesh_runs() -> None:
    manifest = Manifest.default()
    assert set(manifest.artifacts) == {
        "yolo26n",
        "yolo26n-seg",
        "ppocrv6-det",
        "ppocrv6-rec",
        "ppocr-cls",
        "smollm2-135m-instruct-gguf",
    }
    for name, entry in manifest.artifacts.items():
        assert entry.licence.startswith("AGPL-3.0") == name.startswith("yolo"), name
        # Where no hub can be reached, a registry package still can: every artifact ends with one.
        assert isinstance(entry.sources[-1], PackageSource), name
        assert len(entry.sources) >= 2, name


def test_sources_stand_in_order_of_preference() -> None:
    order = {HubSource: 0, UrlSource: 1, PackageSource: 2}
    for name, entry in Manifest.default().artifacts.items():
        ranks = [order[type(source)] for source in entry.sources]
        assert ranks == sorted(ranks), name


def test_a_good_entry_parses() -> None:
    assert Manifest.parse(ENTRY.format(**GOOD)).artifact("net").size == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sha256", "0" * 63),
        ("sha256", "Z" * 64),
        ("size", "0"),
        ("licence", "do what you like"),
        ("source", 'kind = "url"\nurl = "file:///etc/passwd"'),
        ("source", 'kind = "url"\nurl = "https://"'),
        ("source", 'kind = "carrier pigeon"\nurl = "https://example.org/"'),
        ("source", 'kind = "hub"\nrepo = "no-owner"\nrevision = "main"\nfile = "net.bin"'),
        ("source", 'kind = "hub"\nrepo = "a/b"\nrevision = "main"\nfile = "net.bin"\nextra = 1'),
        ("source", 'kind = "package"\nregistry = "pypi"\nname = "--index-url"\nversion = "1"\nmember = "a"'),
        ("source", 'kind = "package"\nregistry = "pypi"\nname = "a"\nversion = "1 --pre"\nmember = "a"'),
        ("source", 'kind = "package"\nregistry = "pypi"\nname = "a"\nversion = "1"\nmember = "/etc/passwd"'),
    ],
)
def test_a_bad_entry_is_refused(field: str, value: str) -> None:
    with pytest.raises(ValidationError):
        Manifest.parse(ENTRY.format(**{**GOOD, field: value}))
