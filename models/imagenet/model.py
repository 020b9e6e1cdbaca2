"""EfficientNet-Lite0 (Tan and Le, 2019, https://arxiv.org/abs/1905.11946; Lite: without
squeeze-and-excitation, with ReLU6), with the names of the weights in `fetch.yaml`."""

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

EPSILON = 1e-3  # TensorFlow's, of batch normalization
# expansion, channels, repeats, stride of the first one, kernel
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class SamePadding(nn.Conv2d):
    """A convolution with TensorFlow's padding `SAME`, for even sides where it has a stride of 2."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(channels, out, kernel, stride, groups=groups, bias=False)
        total = kernel - stride
        before = total // 2
        self.pad = nn.ZeroPad2d((before, total - before, before, total - before))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.pad(x))


class Block(nn.Module):
    """An inverted residual: expand, convolve each channel, project."""

    def __init__(self, channels: int, out: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.is_residual = stride == 1 and channels == out
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = SamePadding(channels, wide, 1)
            self._bn0 = nn.BatchNorm2d(wide, eps=EPSILON)
        self._depthwise_conv = SamePadding(wide, wide, kernel, stride, groups=wide)
        self._bn1 = nn.BatchNorm2d(wide, eps=EPSILON)
        self._project_conv = SamePadding(wide, out, 1)
        self._bn2 = nn.BatchNorm2d(out, eps=EPSILON)
        self.relu = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self.relu(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        result: Tensor = x + y if self.is_residual else y
        return result


class EfficientNetLite0(nn.Module):
    """Images [N, 3, 224, 224] to logits [N, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SamePadding(3, 32, 3, 2)
        self._bn0 = nn.BatchNorm2d(32, eps=EPSILON)
        blocks, channels = [], 32
        for expansion, out, repeats, stride, kernel in STAGES:
            for number in range(repeats):
                blocks.append(Block(channels, out, expansion, stride if not number else 1, kernel))
                channels = out
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = SamePadding(channels, 1280, 1)
        self._bn1 = nn.BatchNorm2d(1280, eps=EPSILON)
        self._fc = nn.Linear(1280, 1000)
        self.relu = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        x = self._blocks(self.relu(self._bn0(self._conv_stem(x))))
        x = self.relu(self._bn1(self._conv_head(x)))
        logits: Tensor = self._fc(adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def build() -> nn.Module:
    return EfficientNetLite0()
