"""`cryobase train` on a cluster."""

import sys

import pytest
from distributed import Client
from typer.testing import CliRunner

from cryobase.pipeline.cli import app
from cryobase.stages.heads import ridge
from cryobase.stages.heads.head import Head
from tests.closeness import assert_close, rounding
from tests.unit.stages.heads.sets import blobs, publish, split

PARAMS = """
download: {source: sample}
split: {train: 0.6, validation: 0.2, test: 0.2}
extract: {sets: {small: {backbone: efficientnet_lite0, image_size: 32, output: avg}}}
train: {heads: {ridge: {kind: ridge, penalty: [1.0, 10.0]}}}
"""


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_workers_of_a_scheduler_file_sum_up_the_rows_of_ridge_heads(tmp_path, monkeypatch):
    features, labels = blobs(900, 30, 4, spread=3)
    stored = publish(tmp_path, features, labels, classes=("a", "b", "c", "d"))
    (tmp_path / "data").mkdir()
    split(tmp_path / "data", stored)
    (tmp_path / "features").rename(tmp_path / "small")
    (tmp_path / "features").mkdir()
    (tmp_path / "small").rename(tmp_path / "features" / "small")
    (tmp_path / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ridge, "PARTITION", 100)

    def trained(*options: str) -> dict[str, Head]:
        result = CliRunner().invoke(app, ["train", *options], catch_exceptions=False)
        assert result.exit_code == 0
        heads = {path.name: Head.load(path) for path in (tmp_path / "models/small").glob("ridge*")}
        assert len(heads) == 2
        for path in tmp_path.glob(".cryobase/heads"):
            path.rename(tmp_path / f"finished before {len(options)}")
        return heads

    alone = trained()
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        client.write_scheduler_file(str(tmp_path / "scheduler.json"))
        spread = trained("--scheduler-file", str(tmp_path / "scheduler.json"))
        assert all(client.run(lambda: "cryobase.stages.heads.ridge" in sys.modules).values())
    for name, head in alone.items():
        (kernel, bias), (other, origin) = head.layers[0], spread[name].layers[0]
        # the same sums in another order, in double precision, rounded to single in the end
        assert_close(kernel, other, within=rounding(4))
        assert_close(bias, origin, within=rounding(4))
