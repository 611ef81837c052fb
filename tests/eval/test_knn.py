from __future__ import annotations

import math

import numpy as np
import torch

from dinov3.eval.knn import knn_accuracy, knn_predict


def clouds(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    centres = torch.eye(8)[:4]
    return centres[labels] + 0.1 * torch.randn(n, 8, generator=g), labels


def test_separate_clouds_are_told_apart() -> None:
    assert knn_accuracy(*clouds(100, 0), *clouds(40, 1)) == 1.0


def test_features_without_information_are_at_chance() -> None:
    g = torch.Generator().manual_seed(0)
    train, test = torch.randn(2000, 16, generator=g), torch.randn(1000, 16, generator=g)
    labels = torch.randint(4, (3000,), generator=g)
    assert abs(knn_accuracy(train, labels[:2000], test, labels[2000:]) - 0.25) < 0.05


def test_votes_equal_a_loop_over_the_definition() -> None:
    train, labels = clouds(30, 2)
    test, _ = clouds(7, 3)
    votes = knn_predict(train, labels, test, k=5, temperature=0.07, n_classes=4)
    for row, expected in zip(test, votes, strict=True):
        cosines = [float(torch.cosine_similarity(row, t, dim=0)) for t in train]
        tally = [0.0] * 4
        for i in sorted(range(30), key=lambda i: -cosines[i])[:5]:
            tally[int(labels[i])] += math.exp((cosines[i] - 1) / 0.07)
        torch.testing.assert_close(expected, torch.tensor(tally), rtol=1e-4, atol=1e-6)


def test_scale_of_features_does_not_matter() -> None:
    (a, la), (b, _) = clouds(50, 4), clouds(20, 5)
    one = knn_predict(a, la, b, k=5, temperature=0.07, n_classes=4)
    torch.testing.assert_close(one, knn_predict(a * 7, la, b * 0.1, k=5, temperature=0.07, n_classes=4))


def test_more_neighbours_than_images_are_cut() -> None:
    assert knn_accuracy(*clouds(8, 6), *clouds(8, 7), k=200) == 1.0


def test_classes_are_those_of_scikit_learn_on_a_thousand_points() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    g = torch.Generator().manual_seed(8)
    train, test = torch.randn(1000, 16, generator=g), torch.randn(1000, 16, generator=g)
    labels = torch.randint(7, (1000,), generator=g)
    unit = [torch.nn.functional.normalize(x, dim=1).double().numpy() for x in (train, test)]
    # of unit vectors, cosine = 1 - distance^2 / 2
    theirs = KNeighborsClassifier(20, weights=lambda d: np.exp(-(d**2) / 2 / 0.07)).fit(unit[0], labels.numpy())
    votes = knn_predict(train, labels, test, k=20, temperature=0.07, n_classes=7)
    shares = votes / votes.sum(1, keepdim=True)
    torch.testing.assert_close(shares.double(), torch.from_numpy(theirs.predict_proba(unit[1])), rtol=1e-4, atol=1e-6)
    assert votes.argmax(1).tolist() == theirs.predict(unit[1]).tolist()
