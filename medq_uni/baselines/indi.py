"""InDI (Delbracio & Milanfar 2023, "Inversion by Direct Iteration: An Alternative to Denoising Diffusion").

Written from the paper. Between a true image x and its degraded form y lie x_t = (1 - t) x + t y, and a network F learns
x from x_t and t; restoring walks from t = 1 to 0 in small steps. With a squared error one step gives the posterior
mean; more steps trade its low error for texture. What the paper leaves to the task and is chosen here: no noise is
added to x_t (a degraded image has its own), half of the samples are drawn at t = 1 and the rest at the times of the
other steps, no other being visited, and F corrects x_t by NAFNet's U-Net, which reads t as one more channel, as FFDNet
(Zhang, Zuo, Zhang 2018) reads a noise level.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medq_uni.baselines.nafnet import GatedUNet
from medq_uni.baselines.network import Baseline, BaselineConfig, Terms
from medq_uni.errors import MedQError

SHARE_AT_START = 0.5
"""Share of training samples with t = 1, where a restoration in one step looks."""


class Network(Baseline):
    """Restores in ``config.steps`` steps.

    Args:
        config: Its size.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        self.unet = GatedUNet(config, config.in_channels + 1, config.in_channels)

    def predict(self, x_t: Float[Tensor, "B C H W"], t: Float[Tensor, " B"]) -> Float[Tensor, "B C H W"]:
        """Return F(x_t, t): the true image as expected from the one at time t."""
        plane = t[:, None, None, None].expand_as(x_t[:, :1])
        correction: Tensor = self.unet(torch.cat([x_t, plane], dim=1))
        return x_t + correction

    def restore(self, degraded: Float[Tensor, "B C H W"], steps: int) -> Float[Tensor, "B C H W"]:
        """Return the image at t = 0 after ``steps`` equal steps d = 1 / steps (algorithm of the paper).

        A step is x_(t-d) = (d / t) F(x_t, t) + (1 - d / t) x_t; the last, where d = t, is F alone.

        Raises:
            MedQError: If ``steps`` is less than one.
        """
        if steps < 1:
            raise MedQError(f"restoring takes at least one step, got {steps}.")
        x = degraded
        for left in range(steps, 0, -1):
            t = torch.full((len(x),), left / steps, dtype=x.dtype, device=x.device)
            x = x + (self.predict(x, t) - x) / left  # d / t = 1 / left
        return x

    def forward(self, degraded: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the restoration; sides must be multiples of ``config.multiple``."""
        return self.restore(degraded, self.config.steps)

    def learn(
        self, degraded: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"], t: Float[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B C H W"], Terms]:
        """Return F(x_t, t), which the pixel losses compare with the true image.

        Uniform draws above ``1 - SHARE_AT_START`` become t = 1; the rest become the times of the other steps alike.
        """
        steps = self.config.steps
        others = 1 + (t / (1 - SHARE_AT_START) * (steps - 1)).floor()
        t = torch.where(t < 1 - SHARE_AT_START, others, steps) / steps
        part = t[:, None, None, None]
        return self.predict((1 - part) * reference + part * degraded, t), {}
