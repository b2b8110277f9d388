"""The published figures as results tables, so that the same commands read them.

`python -m sweep.published` makes `results/published/*/trials/all.parquet` from the `source.csv` beside it,
both taken from "Revisiting ResNets" (arXiv 2103.07579): Figure 3, digitised, and Table 7, as printed.
"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweep.table import write_rows

Row = dict[str, Any]
FOLDER = Path("results/published")
_PAPER = "arXiv 2103.07579"
# Dots that touch in the figure: epochs, resolution, depth, width.
_TOUCHING = {(10, 160, 101, 1.5), (10, 224, 101, 1.0), (100, 160, 200, 1.0), (100, 160, 101, 1.5)}


def fig3_row(line: dict[str, str]) -> Row:
    """One dot of Figure 3: minival top-1 against the seconds of one TPU training step."""
    epochs, resolution, depth = int(line["epochs"]), int(line["resolution"]), int(line["depth"])
    width = float(line["width_mult"])
    reading = 0.05 if (epochs, resolution, depth, width) in _TOUCHING else 0.03
    return _published("resnet_rs_fig3", "resnet_rs") | {
        "trial_id": f"fig3-d{depth}-w{width:g}-r{resolution}-e{epochs}",
        "width": width,
        "depth": depth,
        "resolution": resolution,
        "epochs": epochs,
        "minival_top1": float(line["minival_top1"]),
        "train_step_ms": _thousands(line["tpu_time_per_train_step_s"]),
        "device": "TPU",
        "provenance": f"{_PAPER}, Figure 3, digitised: -+ {reading} points, -+ 0.5 ms",
    }


def table7_row(line: dict[str, str]) -> Row:
    """One line of Table 7: validation top-1, and the training step on two devices. FLOPs are 2 x MACs."""
    resnet = line["family"] == "resnet_rs"
    return _published("resnet_rs_table7", line["family"]) | {
        "trial_id": f"table7-{line['model']}-r{line['resolution']}",
        "model": line["model"],
        # All ResNet-RS models of the table have the standard width; EfficientNet has neither of these axes.
        "width": 1.0 if resnet else None,
        "depth": int(line["depth"]) if resnet else None,
        "resolution": int(line["resolution"]),
        "val_top1": float(line["val_top1"]),
        "params": round(float(line["params_m"]) * 1e6),
        "macs_per_image": round(float(line["flops_b"]) * 1e9 / 2),
        "tpuv3_train_step_ms": float(line["tpuv3_train_step_ms"]),
        "v100_train_step_ms": _thousands(line["v100_train_step_s"]),
        "provenance": f"{_PAPER}, Table 7, as printed",
    }


def _published(sweep: str, family: str) -> Row:
    """What all published rows share. The family's own recipe trained it; the seed is not known."""
    own = {"sweep": sweep, "family": family, "recipe": family, "dataset": "imagenet"}
    return own | {"protocol": "independent", "source": "published", "status": "ok"}


def _thousands(seconds: str) -> float:
    """Seconds as milliseconds, without the dust of binary fractions."""
    return round(float(seconds) * 1000, 6)


STUDIES: dict[str, Callable[[dict[str, str]], Row]] = {
    "resnet_rs_fig3": fig3_row,
    "resnet_rs_table7": table7_row,
}


def rows_of(folder: Path) -> list[Row]:
    """The rows of one published study, read from its `source.csv`."""
    with (folder / "source.csv").open(newline="") as file:
        return [STUDIES[folder.name](line) for line in csv.DictReader(file)]


def main(root: Path = FOLDER) -> None:
    """Write every published study's table from its source."""
    for name in STUDIES:
        write_rows(root / name / "trials" / "all.parquet", rows_of(root / name))


if __name__ == "__main__":
    main()
