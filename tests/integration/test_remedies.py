"""Whatever a message tells one to do is done here, literally, and then the complaint is gone."""

import re
import tomllib
from hashlib import sha256
from pathlib import Path

import pytest

from cryobase.stages import extract as extract_stage
from cryobase.stages.backbones.table import BACKBONES
from cryobase.stages.data.raw import RawImages
from cryobase.stages.heads.export import FORMATS
from cryobase.stages.sources import fetch
from tests.integration.remedies import doctor, features, images, params, source, sources
from tests.integration.remedies.by_hand import BY_HAND, TRIED_ELSEWHERE
from tests.integration.remedies.situations import (
    PARAMS,
    SITUATIONS,
    asked,
    complaint,
    obey,
    run,
    write_params,
)
from tests.integration.remedies.source import COMMAND, pattern
from tests.integration.remedies.sources import archive, pin
from tests.integration.store_checkout import compute, make_and_run, work_in_copy
from tests.scale import RUN_ALL
from tests.unit.stages.sources.test_fetch import breaking_at, good, server  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]
AREAS = (images, sources, features, params, doctor)  # whose import fills SITUATIONS
GOES_ON = "{}: {}; {} bytes are kept: check the network, and run `cryobase download` again to go on"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkout up to the report; its features are made up, so nothing loads TensorFlow."""
    commands = ("split", "extract", "train", "evaluate", "report")
    return make_and_run(tmp_path_factory.mktemp("made"), PARAMS, *commands)


@pytest.fixture
def place(made, quick_path, monkeypatch):
    """A copy of it to break, in which commands run."""
    work_in_copy(made, quick_path, monkeypatch)
    version = extract_stage.EXTRACTOR_VERSION
    monkeypatch.setattr(extract_stage, "EXTRACTOR_VERSION", version)
    asked.clear()
    monkeypatch.setattr(extract_stage, "_computed", compute)
    return quick_path


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", range(len(SITUATIONS)))
def test_what_a_message_says_mends(place, number):
    one = SITUATIONS[number]
    if one.slow and not RUN_ALL:
        pytest.skip("takes long")
    one.build()
    _, said = complaint(one.probe)
    for text in one.texts:
        assert pattern(text).search(said), (text, said)
    one.obey(said)
    heard = {said}
    while (found := complaint(one.probe))[0]:  # another complaint is obeyed in its turn
        assert found[1] not in heard
        heard.add(found[1])
        obey(found[1])
    assert not pattern(one.texts[0]).search(found[1])


def test_every_remedy_of_the_source_is_tried():
    """A new message that says what to do needs a situation here, or words on why it has none."""
    told = source.remedies()
    tried = {text for one in SITUATIONS for text in one.texts}
    by_hand = {text for texts in BY_HAND.values() for text in texts}
    for text, place in told.items():
        assert text in tried | by_hand | TRIED_ELSEWHERE.keys(), f"{place}: nobody tries: {text}"
    assert not (tried | by_hand | TRIED_ELSEWHERE.keys()) - told.keys(), "of no message any more"


@pytest.mark.parametrize("where", sorted(set(TRIED_ELSEWHERE.values())))
def test_what_is_tried_elsewhere_is_there(where):
    path, _, name = where.partition("::")
    assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


def test_commands_stand_in_backticks():
    """So that they can be told from the words around them, and copied."""
    for place, text in source.templates():
        if "\n" not in text:
            assert not source.LOOSE.search(COMMAND.sub("", text)), (place, text)


def test_what_pip_is_told_to_install_brings_what_is_missing():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {
        extra: {re.split(r"[^\w-]", one)[0].lower() for one in needed}
        for extra, needed in project["optional-dependencies"].items()
    }
    named = {
        "openvino": "openvino",
        "keras-hub": "keras-hub",
        "heif": "pillow-heif",
        "sample": "mlxtend",
        "parquet": "pyarrow",
    }
    named |= {name: library for name, one in FORMATS.items() for library in one.needs}
    for extra, library in named.items():
        assert library.lower().replace("_", "-") in extras[extra]
    assert {row.extra for row in BACKBONES.values() if row.extra} <= extras.keys()
    told = " ".join(source.remedies())
    assert set(re.findall(r"cryobase\[([\w-]+)\]", told)) <= extras.keys()
    assert project["name"] == "cryobase"
    assert (ROOT / "requirements.lock").read_text(encoding="utf-8").count("==") > 50


@pytest.mark.fault(59)
def test_a_transfer_goes_on_by_the_command_that_is_named(place, server, monkeypatch):  # noqa: F811
    data = archive().read_bytes()
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)
    server.behaviours = [breaking_at(9, content=data), lambda handler: handler.connection.close()]
    pin("images.tar")
    digest = sha256(data).hexdigest()
    source = {"source": "archive", "url": server.url, "sha256": digest}
    write_params(PARAMS | {"download": source})
    code, said = run("download")
    assert code
    assert pattern(GOES_ON).search(said)
    server.behaviours = [lambda handler: good(handler, content=data)]
    obey(said)
    assert len(RawImages.open(Path("data/raw")).examples) == 30
