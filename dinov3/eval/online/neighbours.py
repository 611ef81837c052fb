"""What the k-NN accuracy is made of, to look at: test images beside their nearest training images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3.config.derived import largest_global_crop
from dinov3.config.schema import Config
from dinov3.engine.look import Look
from dinov3.eval.online.pictures import older
from dinov3.eval.online.scene import LabelledPart, Scene
from dinov3.features.source_images import SourceImages
from dinov3.pictures.neighbours import neighbour_sheet
from dinov3.pictures.token_sheet import unnormalised
from dinov3.runs.folder import RunFolder
from dinov3.system.files import replacing

QUERIES, NEIGHBOURS = 6, 7  # of the picture


class Neighbours(Look[Scene]):
    """``neighbours.png`` at the end."""

    name = "neighbours"
    in_rows = False

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        evaluation = cfg.evaluation
        self.wanted = evaluation.pictures and evaluation.knn.train is not None and cfg.student.in_chans == 3

    def due(self, step: int, *, ends: bool) -> bool:
        return False

    def finish(self, scene: Scene) -> None:
        if not self.wanted:
            return
        train, test = scene.labelled_parts
        chosen = one_of_each(test.labels)
        nearest = nearest_of(train.tokens, test.tokens[chosen.to(test.tokens.device)], NEIGHBOURS).cpu()  # [Q, K]
        queries = self._images(scene, test, chosen)
        found = self._images(scene, train, nearest.flatten()).unflatten(0, tuple(nearest.shape))
        right = train.labels[nearest] == test.labels[chosen][:, None]
        with replacing(scene.run.neighbours) as fresh:
            neighbour_sheet(queries, found, right, fresh, scene.step)
        scene.drawn(scene.run.neighbours)

    def missing(self, run: RunFolder, saved_ns: int) -> list[str]:
        return older(run.neighbours, saved_ns) if self.wanted else []

    def _images(self, scene: Scene, part: LabelledPart, rows: Tensor) -> Tensor:
        """``[N, 3, S, S]`` in [0, 1] of these rows of ``part``, twice as large as trained on: to be looked at."""
        crops = self.cfg.crops
        look_at = scene.extractor(2 * largest_global_crop(self.cfg))
        images = SourceImages(look_at, part.source, [part.indices[int(row)] for row in rows])
        return unnormalised(torch.stack(list(images)), crops.rgb_mean, crops.rgb_std)


def one_of_each(labels: Tensor) -> Tensor:
    """Rows ``[Q]`` of the first image of each class of ``labels [N]``; of many classes, some that are evenly spread."""
    classes = labels.unique()
    some = classes[torch.linspace(0, len(classes) - 1, min(len(classes), QUERIES)).round().long()]
    return torch.stack([(labels == one).nonzero()[0, 0] for one in some])


def nearest_of(gallery: Tensor, queries: Tensor, number: int) -> Tensor:
    """Rows ``[Q, K]`` of ``gallery [M, D]`` by cosine to ``queries [Q, D]``, the nearest first; K is at most M."""
    similarity = F.normalize(queries.float(), dim=-1) @ F.normalize(gallery.float(), dim=-1).T
    return similarity.topk(min(number, len(gallery)), dim=1).indices
