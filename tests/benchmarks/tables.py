"""The tables in README.md and docs/performance.md, made from docs/performance.json."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "performance.json"
PAGE = ROOT / "docs" / "performance.md"
README = ROOT / "README.md"
WRITTEN = (RESULTS, PAGE, README)  # by `--save`
MARKED = re.compile(r"(<!-- performance -->\n).*?(<!-- /performance -->)", flags=re.DOTALL)

TUTORIAL = "`image_dataset_from_directory`, `predict` per batch of 32, concatenate, `np.save`"
SIDES = {  # key -> what is measured, against what
    "api.torch_vs_batches": ("PyTorch's loader, shuffled runs of 16 rows", "`batches` alone"),
    "dask.two_vs_one": ("VGG16 on two single-threaded workers", "one worker"),
    "extract.mobilenet_v2_160.vs_tutorial": ("MobileNetV2, 160 pixels", TUTORIAL),
    "extract.efficientnet_lite0_224.vs_tutorial": ("EfficientNet-Lite0, 224 pixels", TUTORIAL),
    "extract.vgg16_150.vs_tutorial": ("VGG16, 150 pixels", TUTORIAL),
    "extract.mobilenet_v2_160.of_ideal": ("rate, MobileNetV2", "1 ÷ (1/decode + 1/forward)"),
    "extract.efficientnet_lite0_224.of_ideal": ("rate, Lite0", "1 ÷ (1/decode + 1/forward)"),
    "extract.vgg16_150.of_ideal": ("rate, VGG16", "1 ÷ (1/decode + 1/forward)"),
    "extract.fast_decode_12mp": ("MobileNetV2, 12-megapixel JPEG, `decode: fast`", TUTORIAL),
    "extract.fast_decode_12mp.vs_exact": ("`decode: fast`, 12-megapixel JPEG", "`decode: exact`"),
    "extract.memory_growth": ("peak memory for 20,000 images", "for 2,000"),
    "extract.three_outputs": ("time for three outputs of one base", "for one"),
    "fashion.vs_tutorial": (
        "70,000 images, files to trained head",
        "`predict` per batch and `fit`, on a tenth",
    ),
    "fashion.memory_growth": ("peak memory for 70,000 images", "for 30,000"),
    "heads.linear52_vs_fit": ("52 linear heads in one scan", "52 Keras `fit` runs"),
    "heads.linear52_vs_one_fit": ("time of 52 linear heads in one scan", "one Keras `fit`"),
    "heads.linear52_stored_vs_fit": ("52 linear heads, 60,000 stored rows", "52 `fit` runs"),
    "heads.linear52_stored_vs_one_fit": ("time of these 52", "one Keras `fit`"),
    "heads.mlp16_vs_fit": ("16 hidden-layer heads of 256 units", "16 Keras `fit` runs"),
    "heads.waiting_for_rows": ("time for which 52 heads wait for 60,000 stored rows", "an epoch"),
    "heads.waiting_for_rows_million": ("time for which they wait for 1,000,000", "an epoch"),
    "read.random_vs_memmap": ("random batches of 256 rows", "`numpy.memmap` fancy indexing"),
    "read.random_vs_h5py": ("random batches of 256 rows", "h5py fancy indexing"),
    "read.block_vs_memmap": ("shuffled runs of 16 rows", "`numpy.memmap` fancy indexing"),
    "read.sequential_vs_h5py": ("rows in order", "h5py slices"),
    "read.memory_million_vs_60k": ("peak memory of reading 1,000,000 rows", "60,000"),
    "trunk.vgg16_block5": ("epoch on a cached trunk, VGG16 block 5", "end to end"),
}
AT_LEAST = {  # what a measurement must reach, on any machine
    "api.torch_vs_batches": 0.7,
    "read.block_vs_memmap": 0.7,
    "read.random_vs_h5py": 3.0,
    "extract.fast_decode_12mp": 1.4,
}
AT_MOST = {
    "heads.waiting_for_rows": 0.05,
    "heads.waiting_for_rows_million": 0.05,
}
IN_README = (
    "extract.mobilenet_v2_160.vs_tutorial",
    "extract.efficientnet_lite0_224.vs_tutorial",
    "fashion.vs_tutorial",
    "heads.linear52_vs_fit",
    "heads.mlp16_vs_fit",
    "read.random_vs_h5py",
    "trunk.vgg16_block5",
)


def table(ratios: dict[str, float]) -> str:
    """A Markdown table of ratios, with the command that measures each."""
    lines = ["| | beside | ratio | `python -m tests.benchmarks` … |", "|-|-|-|-|"]
    for key, (what, beside) in SIDES.items():
        if key in ratios:
            lines.append(f"| {what} | {beside} | {ratios[key]:.2f} | `{key}` |")
    return "\n".join(lines) + "\n"


def readme(ratios: dict[str, float]) -> str:
    """README.md with its table renewed."""
    rows = table({key: ratios[key] for key in IN_README if key in ratios})
    return MARKED.sub(lambda found: found[1] + rows + found[2], README.read_text("utf-8"))


def page(document: dict) -> str:
    """docs/performance.md: all ratios, and where they were measured."""
    return (
        "# Performance\n\n"
        f"Both sides of a row are measured in turn in one run, several rounds, and the median of"
        f" the\nratios is given: above 1, the left side is so many times faster; a row that begins"
        f" with *time*,\n*peak memory* or *rate* gives the left side's share of the right one.\n"
        f"Machine: {document['machine']}, shared with other work; commit {document['commit']}.\n"
        f"{document.get('but', '')}"
        f"`python -m tests.benchmarks --save` measures all anew and rewrites this page.\n\n"
        + table(document["ratios"])
    )


def write() -> None:
    """Renew both tables from docs/performance.json."""
    document = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(page(document), encoding="utf-8")
    README.write_text(readme(document["ratios"]), encoding="utf-8")
