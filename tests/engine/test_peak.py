from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from dinov3.engine.peak import Peak, peak_of
from dinov3.engine.trainer import _Window
from dinov3.system.cards import CARDS, card, card_of
from dinov3.train.flops import flops_an_image
from tests.train.tiny import tiny_config

GPU = torch.device("cuda", 0)


def test_a_card_is_known_by_what_it_calls_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {
        "NVIDIA H200": "h200",
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA H100 PCIe": "h100-pcie",
        "NVIDIA A100-SXM4-40GB": "a100-40",
        "NVIDIA A100-SXM4-80GB": "a100",
        "NVIDIA L40S": "l40s",
    }
    assert {name: known.name for name in named if (known := card_of(name)) is not None} == named
    assert card_of("Tesla T4") is None
    assert all(card(known.name) is known for known in CARDS)


def test_the_peak_is_that_of_all_cards_over_what_an_image_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    peak = peak_of(GPU, lambda: 989e9)
    assert peak is not None
    assert peak.samples_per_second == 1000
    assert "989 GFLOP an image: 100 % would be 1,000 images/s" in peak.line()
    assert peak_of(GPU, lambda: None) is None
    assert peak_of(torch.device("cpu"), lambda: pytest.fail("counted for nothing")) is None


def test_an_unknown_card_has_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert peak_of(GPU, lambda: pytest.fail("counted for nothing")) is None


def test_the_speed_of_a_run_is_given_as_a_share_of_the_peak() -> None:
    known = card("h100")
    assert known is not None
    trainer: Any = SimpleNamespace(
        counters=SimpleNamespace(samples=0), stream=SimpleNamespace(wait_seconds=0.0), peak=Peak(known, 989e9, 1)
    )
    window = _Window(trainer)
    trainer.counters.samples = 50
    speed = window.close()
    assert speed["share_of_peak"] == pytest.approx(speed["images_per_second"] / 1000)
    trainer.peak = None
    assert "share_of_peak" not in cast("dict[str, float]", window.close())


def test_more_local_crops_cost_more_and_a_gram_teacher_is_not_counted() -> None:
    plain = flops_an_image(tiny_config())
    assert flops_an_image(tiny_config(crops__local_crops_number=4)) > 1.2 * plain
    assert flops_an_image(tiny_config(gram__use_loss=True, gram__ema_teacher=True)) == plain


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-PCIE-40GB", "a100-40-pcie"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        *((name, None) for name in ("NVIDIA L40", "NVIDIA A10G", "NVIDIA H100 NVL", "NVIDIA GeForce RTX 3090 Ti")),
        *((name, None) for name in ("NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D")),
    ],
)
def test_a_device_is_the_card_it_is_called_and_not_one_whose_name_begins_so(name: str, known: str | None) -> None:
    found = card_of(name)
    assert (None if found is None else found.name) == known
