"""The checkpoint itself in torch, behind a DataLoader of two workers; `compile` compiles it first."""

import torch
from protocol import main
from torch.utils.data import DataLoader, Dataset

from medexport.source import read_checkpoint
from medinfer.imaging import preprocess, read_image

WORKERS = 2


class Images(Dataset):
    """Files, prepared as training prepares them."""

    def __init__(self, paths, spec):
        self.paths, self.spec = paths, spec

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return torch.from_numpy(preprocess(read_image(self.paths[index], self.spec), self.spec)).permute(2, 0, 1)


class Torch:
    """The classifier, in memory order that torch runs fastest."""

    def __init__(self, task):
        self.batch, self.device = task.batch or 32, task.provider
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = task.tf32
        source = read_checkpoint(task.model)
        self.spec = source.spec.input
        self.network = source.classifier.to(self.device, memory_format=torch.channels_last)
        if task.setting == "compile":
            self.network = torch.compile(self.network)

    def one(self, path):
        """Answer one image."""
        return self.run(Images([path], self.spec)[0][None])[0]

    def many(self, paths):
        """Answer many."""
        for pixels in DataLoader(Images(paths, self.spec), batch_size=self.batch, num_workers=WORKERS):
            yield from self.run(pixels)

    def run(self, pixels):
        """Return the logits of a batch."""
        with torch.inference_mode():
            return self.network(pixels.to(self.device)).tolist()


if __name__ == "__main__":
    main(Torch)
