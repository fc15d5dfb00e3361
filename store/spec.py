"""The feature spec, which decides a feature's value, and its fingerprint."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from cryobase.store.errors import SpecError

DTYPES = ("float16", "float32")
MAX_IMAGE_SIZE = 1 << 16
MAX_NUMBER = (1 << 31) - 1
MAX_TEXT = 1 << 14  # characters of a field; augmentation policies are the longest


def canonical_json(value: object) -> bytes:
    """The canonical JSON text of `value`: sorted keys, no spaces, ASCII."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Everything that decides a feature's value, and nothing else.

    Engine, batch size, workers, dataset and split are not part of it: they must not change a value
    by more than a tested tolerance.

    Raises:
        SpecError: a field has the wrong type or a value out of range.
    """

    backbone: str
    weights_sha256: str
    image_size: int
    resize: str
    aspect: str
    decode: str
    preprocessing: str
    output: str
    dtype: str
    augmentation: str | None
    extractor_version: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) not in _TYPES[field.name]:
                raise SpecError(
                    f"feature spec: {field.name} is {value!r}, a {type(value).__name__}"
                )
            if isinstance(value, str) and len(value) > MAX_TEXT:
                raise SpecError(f"feature spec: {field.name} has {len(value)} characters")
        if not re.fullmatch(r"[0-9a-f]{64}", self.weights_sha256):
            raise SpecError(
                f"feature spec: weights_sha256 is {self.weights_sha256!r}, not 64 hex digits"
            )
        if self.dtype not in DTYPES:
            raise SpecError(
                f"feature spec: dtype is {self.dtype!r}, not one of {', '.join(DTYPES)}"
            )
        for name, most in (("image_size", MAX_IMAGE_SIZE), ("extractor_version", MAX_NUMBER)):
            if not 1 <= getattr(self, name) <= most:
                raise SpecError(f"feature spec: {name} must be 1 to {most}")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON, as 64 hex digits; the name of the spec's pool."""
        return hashlib.sha256(canonical_json(self.to_json())).hexdigest()

    def pass_key(self) -> tuple[Any, ...]:
        """The fields that decide a base's feature maps. Specs of equal keys share a forward pass.

        The other fields may differ: `output` and `dtype` apply after the pass, and each view of
        each augmentation policy is an image of its own.
        """
        free = ("output", "dtype", "augmentation")
        return tuple(getattr(self, f.name) for f in fields(self) if f.name not in free)

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "FeatureSpec":
        """The spec that `to_json` wrote.

        Raises:
            SpecError: a field is missing, unknown or of the wrong type.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(value, Mapping) or set(value) != names:
            given = sorted(value) if isinstance(value, Mapping) else type(value).__name__
            raise SpecError(f"feature spec: found {given}, expected exactly {sorted(names)}")
        return cls(**value)

    def differences(self, other: "FeatureSpec") -> dict[str, tuple[Any, Any]]:
        """The fields in which two specs differ, as `{field: (mine, theirs)}`."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


_TYPES: dict[str, tuple[type, ...]] = {field.name: (str,) for field in fields(FeatureSpec)}
_TYPES |= {"image_size": (int,), "extractor_version": (int,), "augmentation": (str, type(None))}
