import pytest

from cryobase.store import FeatureSpec, SpecError
from cryobase.store.spec import canonical_json
from tests.unit.store.samples import spec

OTHERS = {
    "backbone": "vgg19",
    "weights_sha256": "cd" * 32,
    "image_size": 161,
    "resize": "nearest",
    "aspect": "crop",
    "decode": "fast",
    "preprocessing": "torch",
    "output": "max",
    "dtype": "float16",
    "augmentation": '{"flip":true}',
    "extractor_version": 2,
}


@pytest.mark.fault(24, 58)
@pytest.mark.parametrize("field", OTHERS)
def test_every_field_changes_the_fingerprint_and_is_named(field):
    changed = spec(**{field: OTHERS[field]})
    assert changed.fingerprint != spec().fingerprint
    assert spec().differences(changed) == {field: (spec().to_json()[field], OTHERS[field])}


def test_the_fingerprint_is_stable():
    # Changing this value throws away every pool in the world.
    assert spec().fingerprint == "28e3c55626b6abe2d4d956b6bc29b3a03b89f8a52419c3e37cae9186c201390d"
    assert canonical_json({"b": 1, "a": "é"}) == b'{"a":"\\u00e9","b":1}'


@pytest.mark.parametrize("field", OTHERS)
def test_specs_share_a_pass_but_for_output_dtype_and_augmentation(field):
    shares = spec().pass_key() == spec(**{field: OTHERS[field]}).pass_key()
    assert shares == (field in {"output", "dtype", "augmentation"})


def test_json_round_trip():
    assert FeatureSpec.from_json(spec().to_json()) == spec()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weights_sha256", "AB" * 32),
        ("weights_sha256", "ab" * 31),
        ("dtype", "int8"),
        ("image_size", 0),
        ("image_size", 1.0),
        ("image_size", True),
        ("extractor_version", 0),
        ("backbone", None),
        ("augmentation", 1),
    ],
)
def test_a_value_out_of_range_is_named(field, value):
    with pytest.raises(SpecError, match=field):
        spec(**{field: value})


def test_missing_and_unknown_fields_are_refused():
    value = spec().to_json()
    with pytest.raises(SpecError, match="exactly"):
        FeatureSpec.from_json(value | {"engine": "tensorflow"})
    del value["output"]
    with pytest.raises(SpecError, match="exactly"):
        FeatureSpec.from_json(value)
    with pytest.raises(SpecError, match="list"):
        FeatureSpec.from_json([])
