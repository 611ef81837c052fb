from __future__ import annotations

import torch

from dinov3.dense.neighbours import class_shares, neighbour_votes, patch_bank


def test_shares_are_counts_of_each_patch() -> None:
    labels = torch.randint(0, 4, (2, 6, 8))
    labels[0, :3, :4] = 255
    shares, known = class_shares(labels, (2, 2), 4)
    assert (known[0, 0], known[0, 1]) == (0, 1)
    assert (shares[0, 0] == 0).all()
    tile = labels[1, 3:, :4]
    for c in range(4):
        assert float(shares[1, 2, c]) == float((tile == c).float().mean())


def test_votes_are_those_of_the_most_similar_patches() -> None:
    bank, shares = patch_bank(torch.eye(4) * 7, torch.eye(4), torch.ones(4), seed=0)
    votes = neighbour_votes(bank, shares, torch.tensor([[1.0, 0.9, 0, 0]]), k=2, temperature=0.07)
    assert votes[0].argmax() == 0
    assert votes[0, 1] > 0.1
    assert (votes[0, 2:] == 0).all()
    torch.testing.assert_close(votes.sum(1), torch.ones(1))


def test_a_bank_is_no_larger_than_asked_and_holds_labelled_patches_only() -> None:
    known = (torch.arange(100) % 2).float()
    bank, shares = patch_bank(torch.randn(100, 3), torch.arange(100.0)[:, None], known, seed=3, most=10)
    assert len(bank) == 10
    assert (shares % 2 == 1).all()
    assert torch.equal(shares, patch_bank(torch.randn(100, 3), torch.arange(100.0)[:, None], known, seed=3, most=10)[1])
