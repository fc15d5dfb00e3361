"""A fine-tuning that is killed at random moments ends with the weights of an unbroken one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.scale import rounds
from tests.unit.stages.tuning.tuning_data import prepare

PROGRAM = """
import sys
from pathlib import Path
from cryobase.stages import finetune
from cryobase.stages.data.augment import Augmentation
from cryobase.stages.finetune import FinetuneRun, PhaseConfig
from cryobase.stages.tuning.config import Network, NewHead

root, output = Path(sys.argv[1]), Path(sys.argv[2])
finetune.run(
    FinetuneRun(
        start="scratch", network=Network(kind="book-digits"),
        new_head=NewHead(units=8, dropout=0.4),
        augmentation=Augmentation(rotation=20, horizontal_flip=True),
        learning_rate=1e-3, epochs=8, batch_size=8, keep="last",
        then=(PhaseConfig(unfreeze={"from": "conv2"}, optimizer="rmsprop", epochs=8),),
    ),
    raw=root / "raw", splits=root / "splits", output=output, results=output / "results",
    cache=output / "cache",
)
"""


def command(root: Path, output: Path) -> list[str]:
    return [sys.executable, "-c", PROGRAM, str(root), str(output)]


def epochs(output: Path) -> int:
    """Epochs that have been written so far, over both phases."""
    names = [path.stem for path in output.glob("cache/*/phase-*/epoch-*.npz")]
    return sum(int(name.removeprefix("epoch-")) for name in names)


def kill_after(process: subprocess.Popen, output: Path, wanted: int) -> bool:
    """Kill a process some epochs later; False where it ended before."""
    goal = epochs(output) + wanted
    while process.poll() is None:
        if epochs(output) >= goal:
            time.sleep(random.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.005)
    return False


def weights(output: Path) -> list[np.ndarray]:
    from cryobase.stages.tuning.saved import TunedModel

    return TunedModel.load(output).model.get_weights()


def test_kills_do_not_change_the_weights(tmp_path):
    root = prepare(tmp_path, per_class=24)
    subprocess.run(command(root, tmp_path / "whole"), check=True, capture_output=True)
    broken = tmp_path / "broken"
    random.seed(os.getpid())
    killed = 0
    for _ in range(rounds(10)):
        process = subprocess.Popen(
            command(root, broken), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if not kill_after(process, broken, random.randint(1, 4)):
            assert process.returncode == 0
            break
        killed += 1
    assert killed
    subprocess.run(command(root, broken), check=True, capture_output=True)
    for found, expected in zip(weights(broken), weights(tmp_path / "whole"), strict=True):
        assert np.array_equal(found, expected)
