"""Image retrieval by cosine: does an image's neighbourhood hold its own class?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def retrieval_scores(
    gallery: Tensor,
    gallery_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    same: bool = False,
    recall_at: tuple[int, ...] = (1, 5, 10),
    chunk: int = 512,
) -> dict[str, float]:
    """``map`` (mean average precision over the whole ranking) and ``recall@k`` (the class is among the first k).

    ``gallery [M, D]``, ``queries [N, D]``. With ``same`` the queries are the gallery and none finds itself. Queries
    whose class the gallery does not have are left out; ValueError when that leaves none.
    """
    gallery, queries = F.normalize(gallery.float(), dim=-1), F.normalize(queries.float(), dim=-1)
    precision: list[Tensor] = []
    hits: dict[int, list[Tensor]] = {k: [] for k in recall_at}
    for start in range(0, len(queries), chunk):
        similarity = queries[start : start + chunk] @ gallery.T  # [n, M]
        if same:
            rows = torch.arange(len(similarity), device=similarity.device)
            similarity[rows, rows + start] = -torch.inf
        order = similarity.argsort(dim=1, descending=True, stable=True)
        order = order[:, : order.shape[1] - same]
        relevant = (gallery_labels[order] == query_labels[start : start + chunk, None]).float()  # [n, M] by rank
        total = relevant.sum(1)
        known = total > 0
        ranks = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)
        average = (relevant * relevant.cumsum(1) / ranks).sum(1) / total.clamp_min(1)
        precision.append(average[known])
        for k in recall_at:
            hits[k].append((relevant[known, :k].sum(1) > 0).float())
    every = torch.cat(precision)
    if not len(every):
        raise ValueError("no query has an image of its class in the gallery")
    return {"map": float(every.mean())} | {f"recall@{k}": float(torch.cat(v).mean()) for k, v in hits.items()}
