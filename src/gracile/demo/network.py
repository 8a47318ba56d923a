"""The demo's network."""

from torch import Tensor, nn


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class SmallNet(nn.Module):
    """Six 3x3 convolutions with batch-norm in three stages: grey images of any size in, ten classes out."""

    def __init__(self, width: int = 32, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for stage in range(3):
            if stage:
                layers.append(nn.MaxPool2d(2))
            for _ in range(2):
                layers += _block(channels, width << stage)
                channels = width << stage
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 1, height, width] to [N, classes]."""
        logits: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return logits
