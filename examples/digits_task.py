"""The task: scikit-learn's handwritten digits, and how a network is trained and tested on them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from attrs import frozen
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

BATCH = 128
SPLIT_SEED = 0


@frozen(eq=False)
class Images:
    """Images ``(N, 1, 8, 8)`` in [0, 1] and their classes ``(N,)``."""

    pixels: torch.Tensor
    classes: torch.Tensor

    def __len__(self) -> int:
        return len(self.classes)


@frozen(eq=False)
class Digits:
    """The 1797 images, split 60:20:20 with equal shares of each class, always the same way.

    Gates and watch windows look at ``validation`` only; ``test`` is for the final comparison and the proof.
    """

    train: Images
    validation: Images
    test: Images


def digits() -> Digits:
    """Load the data set that ships with scikit-learn."""
    data = load_digits()
    pixels = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    classes = torch.tensor(data.target)

    def halves(rows: list[int], share: float) -> tuple[list[int], list[int]]:
        first, second = train_test_split(
            rows, test_size=share, random_state=SPLIT_SEED, stratify=classes[rows]
        )
        return first, second

    train, rest = halves(list(range(len(classes))), 0.4)
    validation, test = halves(rest, 0.5)
    return Digits(*(Images(pixels[rows], classes[rows]) for rows in (train, validation, test)))


def use_one_thread() -> None:
    """Networks this small gain nothing from a second thread, and one thread adds numbers in one order."""
    torch.set_num_threads(1)


def new_optimizer(model: nn.Module, epochs: int) -> tuple[Optimizer, CosineAnnealingLR]:
    """Return the optimizer and the learning rates that every network here is trained with."""
    optimizer = AdamW(model.parameters(), lr=1e-2)
    return optimizer, CosineAnnealingLR(optimizer, T_max=epochs, eta_min=1e-3)


def train_epoch(model: nn.Module, optimizer: Optimizer, images: Images, seed: int, epoch: int) -> None:
    """Train on every image once, in an order that only ``seed`` and ``epoch`` decide."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1000 * seed + epoch))
    model.train()
    for rows in torch.split(order, BATCH):
        optimizer.zero_grad()
        loss: torch.Tensor = F.cross_entropy(model(images.pixels[rows]), images.classes[rows])
        loss.backward()
        optimizer.step()


@torch.no_grad()
def logits_of(model: nn.Module, images: Images) -> torch.Tensor:
    """Return the logits ``(N, 10)`` in eval mode; the model's own mode stays."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    logits: torch.Tensor = model(images.pixels)
    for module, training in modes.items():
        module.training = training
    return logits


def accuracy(model: nn.Module, images: Images) -> float:
    """Return the share of images that are classified right."""
    return float((logits_of(model, images).argmax(1) == images.classes).float().mean())
