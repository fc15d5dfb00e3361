"""The model card: what a model is, what it was made of, how well it does, how to make it again."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from cryobase.stages.heads.graftcheck import Agreement
from cryobase.stages.heads.head import Head
from cryobase.store.text import visible

SCORES = ("accuracy", "f1_macro", "log_loss", "ece")
MARKS = re.compile(r"[\\`*_{}\[\]()#!|~>$]|://|@")  # of links, emphasis, code, tables, formulas


def model_card(
    name: str, head: Head, scores: Mapping[str, Mapping[str, float]], agreement: Agreement
) -> str:
    """A page of Markdown.

    Args:
        name: `<set>/<head>`.
        head: the head.
        scores: by part of the data, as in `metrics.json`.
        agreement: what the graft check found.
    """
    params = "\n".join(
        f"| {key} | {plain(value)} |" for key, value in sorted(head.params.to_json().items())
    )
    size = head.specs[0].image_size
    of_set, _, of_head = name.partition("/")
    stage = "evaluate" if len(head.specs) == 1 else "evaluate_pair"
    backbones = " beside ".join(dict.fromkeys(plain(spec.backbone) for spec in head.specs))
    return f"""# {plain(name)}

A frozen {backbones} with a {head.params.kind} head for {len(head.classes)} classes.

- **Input**: float32 RGB images (n, {size}, {size}, 3), 0 to 255;
  preprocessing is inside the model.
- **Output**: {_output(head)}.
- **Classes**: {", ".join(map(plain, head.classes))}.

## Scores

{_score_table(scores)}

{_chosen(scores)}On {agreement.images} images the exported model gave
logits within {agreement.deviation:.2g} standard deviations of the head's on stored features, and
{agreement.equal_labels} equal labels.

## Made of

| digest | |
|---|---|
| feature set | {plain(head.data[0])} |
| split | {plain(head.data[-1])} |
{_fingerprints(head)}

{_specs(head)}

| head | |
|---|---|
{params}

## Make it again

In a checkout with the same `params.yaml` and data:

```
dvc repro {shlex.quote(f"{stage}@{of_set}")}
cryobase heads export {shlex.quote(of_set)} {shlex.quote(of_head)}
```
"""


def plain(value: Any) -> str:
    """A value within a line or cell of Markdown, which then shows it and does nothing else."""
    return MARKS.sub(r"\\\g<0>", visible(str(value)).replace("&", "&amp;").replace("<", "&lt;"))


def _fingerprints(head: Head) -> str:
    return "\n".join(f"| feature spec | `{spec.fingerprint}` |" for spec in head.specs)


def _specs(head: Head) -> str:
    """A column per feature spec."""
    documents = [spec.to_json() for spec in head.specs]
    lines = ["| feature spec |" + " |" * len(documents), "|---" * (len(documents) + 1) + "|"]
    for key in sorted(documents[0]):
        values = " | ".join(plain(document[key]) for document in documents)
        lines.append(f"| {key} | {values} |")
    return "\n".join(lines)


def _output(head: Head) -> str:
    if head.outputs == 1:
        return f"the probability (n, 1) of {plain(head.classes[1])}"
    return f"probabilities (n, {len(head.classes)})"


def _chosen(scores: Mapping[str, Mapping[str, Any]]) -> str:
    return "The head was chosen on validation images. " if scores.get("validation") else ""


def _score_table(scores: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        f"| {part} | {' | '.join(_score(scores[part].get(score)) for score in SCORES)} |"
        for part in ("validation", "train", "test")
        if scores.get(part)
    ]
    header = [f"| | {' | '.join(SCORES)} |", "|---" * (len(SCORES) + 1) + "|"]
    return "\n".join([*header, *lines]) if lines else "None were computed."


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
