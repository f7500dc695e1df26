"""torch eager behind a DataLoader of two workers with torchvision's transforms: what most training code predicts with.

The network has the architecture alone, from torchvision: its weights, and so its answers, are its own.
"""

from pathlib import Path

import torch
import torchvision
from clock import Clock, arguments
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms


class Images(Dataset):
    """Files, prepared as torchvision's own recipes do."""

    def __init__(self, paths):
        self.paths = paths
        size, mean, std = (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        steps = [transforms.Resize(size), transforms.ToTensor(), transforms.Normalize(mean, std)]
        self.prepare = transforms.Compose(steps)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return self.prepare(Image.open(self.paths[index]).convert("RGB"))


if __name__ == "__main__":
    model, paths = arguments()
    network = torchvision.models.get_model(Path(model).name.split(".")[0], weights=None, num_classes=4).eval()
    loader = DataLoader(Images(paths), batch_size=32, num_workers=2)
    clock = Clock()
    with torch.inference_mode():
        for tensors in loader:
            clock.answered(network(tensors).softmax(1).tolist())
    clock.report()
