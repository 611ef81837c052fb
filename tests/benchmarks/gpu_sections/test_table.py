from __future__ import annotations

from benchmarks.gpu_sections.table import Row, tables
from benchmarks.reference import official

KNOWN = {"card": "NVIDIA H200", "card_gib": 139.8, "torch": "2.11.0", "cudnn": 91002, "git": "abc+", "source": "def"}


def step(**more: object) -> Row:
    figures = {"arch": "vit_base", "batch": 128, "drop_path": 0.1, "seconds_per_step": 0.17, "images_per_second": 752.9}
    compiled = {"recompiles": 1, "limit_hits": 0}
    return {
        "section": "G",
        "item": "step",
        "status": "ok",
        "peak_gib": 40.0,
        "compiled": compiled,
        **figures,
        **KNOWN,
        **more,
    }


def test_a_step_stands_beside_the_official_figures_and_its_target() -> None:
    reference = official("vit_base", 128, "cuda")
    assert reference is not None
    text = tables({"records": [step(official=reference.row(), ratio=1.703, target=1.7)]})
    assert "| vit_base, batch 128, drop path 0.1 | 170.0 | 752.9 | 40.0 | 289.3 | 54 | x1.703 | x1.7 | 1 / 0 |" in text
    assert "Measured on NVIDIA H200 (139.8 GiB), torch 2.11.0, cuDNN 91002, commit abc+" in text


def test_an_official_figure_of_another_batch_says_so() -> None:
    reference = official("vit_large", 32, "cuda")
    assert reference is not None
    text = tables({"records": [step(arch="vit_large", batch=32, official=reference.row(), ratio=1.1, target=1.35)]})
    assert "322.1 (batch 64)" in text


def test_what_did_not_end_well_is_listed_and_what_cannot_be_here_is_not() -> None:
    records: list[Row] = [
        {"section": "C", "item": "iBOT", "status": "error", "error": "RuntimeError: no", "seconds": 1.0, **KNOWN},
        {"section": "C", "item": "DINO", "status": "skipped", "error": "NotHere: one form", "seconds": 1.5, **KNOWN},
        {"section": "J", "item": "section", "status": "skipped", "error": "10 s are left"},
    ]
    text = tables({"records": records})
    assert "- C iBOT: error: RuntimeError: no" in text
    assert "- J section: skipped: 10 s are left" in text
    assert "NotHere" not in text
    assert "| C | 1 error, 1 skipped | 2.5 |" in text


def test_a_report_without_a_record_has_a_text_too() -> None:
    assert tables({"records": []}) == "No section has run."


def test_steps_that_differ_in_keys_and_other_forms_of_a_part_can_be_told_apart() -> None:
    heads = {"section": "N", "item": "heads", "status": "ok", "relative_difference": 0.002, **KNOWN}
    heads |= {"compiled_ms_1": 0.9, "kernels_ms_1": 0.5, "compiled_ms_2": 0.8, "kernels_ms_2": 0.6}
    text = tables({"records": [step(), step(section="O", keys=["compute_precision.fused_rotation=true"]), heads]})
    assert "| vit_base, batch 128, drop path 0.1 |" in text
    assert "| vit_base, batch 128, drop path 0.1, compute_precision.fused_rotation=true |" in text
    assert "| heads | compiled 0.8 | kernels 0.5 | 2.0e-03 |" in text
