from __future__ import annotations

import pytest
import torch

from dinov3.pictures.retrieval import retrieval_scores


def slow_map(
    gallery: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, wanted: torch.Tensor, same: bool
) -> float:
    precisions = []
    for i, query in enumerate(queries):
        ranked = sorted(
            (j for j in range(len(gallery)) if not (same and j == i)),
            key=lambda j: -float(torch.cosine_similarity(query, gallery[j], dim=0)),
        )
        hits = [rank for rank, j in enumerate(ranked) if labels[j] == wanted[i]]
        if hits:
            precisions.append(sum((n + 1) / (rank + 1) for n, rank in enumerate(hits)) / len(hits))
    return sum(precisions) / len(precisions)


@pytest.mark.parametrize("same", [False, True])
def test_map_is_its_definition(same: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    gallery, labels = torch.randn(40, 6, generator=generator), torch.arange(40) % 4
    queries, wanted = (gallery, labels) if same else (torch.randn(11, 6, generator=generator), torch.arange(11) % 5)
    got = retrieval_scores(gallery, labels, queries, wanted, same=same, chunk=7)
    assert got["map"] == pytest.approx(slow_map(gallery, labels, queries, wanted, same), abs=1e-6)


def test_known_by_hand() -> None:
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    got = retrieval_scores(
        gallery, torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0]]), torch.tensor([1]), recall_at=(1, 2)
    )
    assert got == {"map": pytest.approx((1 / 2 + 2 / 3) / 2), "recall@1": 0.0, "recall@2": 1.0}


def test_no_class_in_common_is_an_error() -> None:
    with pytest.raises(ValueError, match="no query"):
        retrieval_scores(torch.eye(2), torch.tensor([0, 1]), torch.eye(2), torch.tensor([2, 3]))
