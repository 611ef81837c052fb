"""Weighted nearest-neighbour classification of frozen features: the quickest honest look at a backbone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def knn_predict(
    train: Tensor, labels: Tensor, test: Tensor, *, k: int, temperature: float, n_classes: int, chunk: int = 1024
) -> Tensor:
    """Class votes ``[N, n_classes]`` of the ``k`` nearest training features by cosine, weighted exp(cosine / T).

    ``train [M, D]``, ``labels [M]`` int64, ``test [N, D]`` (Wu et al. 2018, section 3.4). ``k`` above M is cut to M.
    """
    train, test = F.normalize(train.float(), dim=-1), F.normalize(test.float(), dim=-1)
    one_hot = F.one_hot(labels, n_classes).float()  # [M, n_classes]
    votes = []
    for rows in test.split(chunk):
        similarity, nearest = (rows @ train.T).topk(min(k, len(train)), dim=1)  # [n, k]
        weights = ((similarity - 1.0) / temperature).exp()
        votes.append((one_hot[nearest] * weights[..., None]).sum(1))
    return torch.cat(votes)


def knn_accuracy(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, k: int = 20, temperature: float = 0.07
) -> float:
    """Share of ``test`` whose most voted class is its own, between 0 and 1."""
    n_classes = int(max(train_labels.max(), test_labels.max())) + 1
    votes = knn_predict(train, train_labels, test, k=k, temperature=temperature, n_classes=n_classes)
    return float((votes.argmax(1) == test_labels).float().mean())
