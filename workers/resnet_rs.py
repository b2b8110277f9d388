"""Facts about ResNet-RS that need no torch: which depths exist and how many channels a width gives.

Sources: RS = "Revisiting ResNets" (arXiv 2103.07579); TFM = TF Model Garden.
"""

from collections.abc import Mapping

# Bottleneck blocks per stage. 50 to 200, 270, 350, 420: the authors' released code. 300 and 400: RS appendix E.
# 26: inferred from the FLOPs of RS figure 2, which a basic-block 26 misses by 15 %.
BLOCKS: Mapping[int, tuple[int, int, int, int]] = {
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    270: (4, 29, 53, 4),
    300: (4, 36, 54, 4),
    350: (4, 36, 72, 4),
    400: (6, 48, 72, 6),
    420: (4, 44, 87, 4),
}
STAGE_CHANNELS = (64, 128, 256, 512)
STEM_CHANNELS = 32
STEM_POOLS = ("conv", "max")
# The last stage reads features at this stride; a smaller image would be less than one pixel there.
MIN_RESOLUTION = 16


def stage_channels(width: float) -> tuple[int, ...]:
    """Bottleneck channels of the four stages, int(f x width) as in TFM."""
    return tuple(int(channels * width) for channels in STAGE_CHANNELS)


def stem_channels(width: float) -> int:
    """Channels of the deep stem's first two convolutions, scaled like the stages (TFM `scale_stem`).

    Either stem ends in twice as many: 64 at width 1.
    """
    return int(STEM_CHANNELS * width)


def check_width(width: float) -> None:
    """Refuse a width that leaves a convolution without channels.

    Raises:
        ValueError: one line, beginning with "width".
    """
    if stem_channels(width) < 1:
        raise ValueError(f"width {width:g} gives no channels; the smallest is {1 / STEM_CHANNELS:g}")
