"""Makes model_costs.json: what the shapes of the paper cost. Run `python tests/golden/make_model_costs.py`.

Every model is built whole on the meta device and counted in another way than `workers.costs.count_costs` does:
ResNet-RS by torch's own FlopCounterMode, so neither hooks nor the repeated-block shortcut have a part in it;
EfficientNet by hooks on its convolutions and linear layers instead of FlopCounterMode. Takes some minutes.
"""

import json
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from workers.costs import count_modules
from workers.model import build_efficientnet, build_resnet_rs
from workers.resnet_rs import BLOCKS

TARGET = Path(__file__).with_name("model_costs.json")
CLASSES = 1000
WIDTHS = (0.25, 0.5, 1.0, 1.5, 2.0)
DEPTHS = (26, 50, 101, 200, 300, 350, 400)
RESOLUTIONS = (128, 160, 224, 320, 448)
# "Revisiting ResNets", table 7: depth and resolution of the ResNet-RS models, all of width 1.
TABLE7 = (
    *((50, 160), (101, 160), (101, 192), (152, 192), (152, 224), (152, 256)),
    *((200, 256), (270, 256), (350, 256), (350, 320), (420, 320)),
)
EFFICIENTNET = {"b0": 224, "b1": 240, "b2": 260, "b3": 300, "b4": 380, "b5": 456, "b6": 528, "b7": 600}


def count_whole_model(width, depth, resolutions, classes=CLASSES, **switches):
    """Parameters, and forward multiply-adds of one image at each resolution, of the model with all its blocks."""
    with torch.device("meta"):
        model = build_resnet_rs(width, BLOCKS[depth], classes, **switches).eval()
    macs = []
    for resolution in resolutions:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, resolution, resolution, device="meta"))
        assert counter.get_total_flops() % 2 == 0
        macs.append(counter.get_total_flops() // 2)
    return sum(p.numel() for p in model.parameters()), macs


def rows_of(width, depth, resolutions):
    """One row per resolution."""
    params, macs = count_whole_model(width, depth, resolutions)
    return [
        {"width": width, "depth": depth, "resolution": resolution, "params": params, "macs_per_image": count}
        for resolution, count in zip(resolutions, macs, strict=True)
    ]


def table7():
    """The ResNet-RS rows of table 7."""
    depths = sorted({depth for depth, _ in TABLE7})
    return [row for depth in depths for row in rows_of(1.0, depth, [side for other, side in TABLE7 if other == depth])]


def efficientnet_row(variant):
    """One EfficientNet at the resolution of table 7."""
    with torch.device("meta"):
        modules = count_modules(build_efficientnet(variant, CLASSES), EFFICIENTNET[variant])
    params, macs = (sum(module[part] for module in modules) for part in (1, 2))
    return {"variant": variant, "resolution": EFFICIENTNET[variant], "params": params, "macs_per_image": macs}


def main():
    """Write the file, one shape a line."""
    grid = [row for width in WIDTHS for depth in DEPTHS for row in rows_of(width, depth, RESOLUTIONS)]
    parts = {"paper_grid": grid, "table7": table7(), "efficientnet": list(map(efficientnet_row, EFFICIENTNET))}
    text = ",\n".join(
        f' "{name}": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n ]" for name, rows in parts.items()
    )
    TARGET.write_text("{\n" + f' "classes": {CLASSES},\n{text}\n' + "}\n")


if __name__ == "__main__":
    main()
