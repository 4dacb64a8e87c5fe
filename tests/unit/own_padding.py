"""A convolution that pads by itself, as those of TensorFlow do."""

import torch.nn.functional as F
from torch import Tensor, nn


class SameConv2d(nn.Conv2d):
    """The output is as large as the image over the stride, rounded up; what is missing is added, more of it behind."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.missing(x)))

    def missing(self, x: Tensor) -> list[int]:
        pairs = []
        for n, k, s, d in zip(x.shape[2:], self.kernel_size, self.stride, self.dilation, strict=True):
            all_of_it = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            pairs.append((all_of_it // 2, all_of_it - all_of_it // 2))
        return [amount for pair in reversed(pairs) for amount in pair]
