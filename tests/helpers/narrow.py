"""ResNet-18 with an eighth of the channels: every layer and state that the real one has, for a fiftieth of the time."""

import torch.nn as nn
from torchvision.models.resnet import BasicBlock, conv1x1

from models.encoders import ResNet18, Staged, initialise


class NarrowResNet18(ResNet18):
    dim = 64
    widths = (8, 16, 32, 64)

    def __init__(self, channels):
        Staged.__init__(self)
        self.conv1 = nn.Conv2d(channels, 8, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1, self.relu, self.maxpool = nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
        for number in (2, 3, 4):
            before, width = self.widths[number - 2 : number]
            down = nn.Sequential(conv1x1(before, width, stride=2), nn.BatchNorm2d(width))
            first = BasicBlock(before, width, stride=2, downsample=down)
            self.add_module(f"layer{number}", nn.Sequential(first, BasicBlock(width, width)))
        self.apply(initialise)
