"""The vessel U-Net in PyTorch: uint8 picture in, vessel probability out."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

CHANNELS = (8, 16, 32, 64)
VESSEL_PRIOR = 0.127
"""Share of vessel pixels in the field of view of DRIVE's training images: the head starts out at this answer."""


def _block(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3×3 Conv-BN-ReLU; normalisation directly after the convolution, so that it folds away at export."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Four levels, 121,177 parameters, 2.35 GMAC at 512² (doi:10.1007/978-3-319-24574-4_28, narrowed).

    Input uint8 `[batch, height, width, 3]`, both sides multiples of 8; output float32 `[batch, height, width, 1]`,
    the probability in 0…1 that a pixel is vessel.
    """

    def __init__(self, channels: tuple[int, ...] = CHANNELS) -> None:
        super().__init__()
        self.down = nn.ModuleList(_block(i, o) for i, o in zip((3, *channels[:-1]), channels, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, shallow, 2, 2) for shallow, deep in pairwise(channels))
        self.merge = nn.ModuleList(_block(2 * shallow, shallow) for shallow in channels[:-1])
        self.head = nn.Conv2d(channels[0], 1, 1)
        bias = self.head.bias
        assert bias is not None
        nn.init.constant_(bias, math.log(VESSEL_PRIOR / (1 - VESSEL_PRIOR)))

    def logits(self, image: Tensor) -> Tensor:
        """Logits `[batch, 1, height, width]` of a float picture `[batch, 3, height, width]` in 0…1."""
        skips = []
        x = image
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        for level in reversed(range(len(self.up))):
            x = self.merge[level](torch.cat([self.up[level](x), skips[level]], dim=1))
        logits: Tensor = self.head(x)
        return logits

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2).float() * (1 / 255)
        return torch.sigmoid(self.logits(x)).permute(0, 2, 3, 1)

    def fold_threshold(self, threshold: float) -> None:
        """Shift the head so that the probability `threshold` becomes 0.5, the operating point of every consumer."""
        bias = self.head.bias
        assert bias is not None
        with torch.no_grad():
            bias -= math.log(threshold / (1 - threshold))
