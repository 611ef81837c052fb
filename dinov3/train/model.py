"""The model as training begins or goes on with it."""

from __future__ import annotations

from pathlib import Path

import torch

from dinov3.config.errors import ConfigError
from dinov3.config.schema import Config
from dinov3.data.sources import Source
from dinov3.distributed.agreement import all_processes_or_none
from dinov3.distributed.peers import ALONE, Peers
from dinov3.engine import precision
from dinov3.runs.manifest import read_train_state
from dinov3.runs.start import Start
from dinov3.train.adapters import prepare_to_continue
from dinov3.train.ssl_meta_arch import SSLMetaArch
from dinov3.train.start_from import take_over
from dinov3.train.stem import fit_stem
from dinov3.weights.own import load_model
from dinov3.weights.pretrained import LoadReport, load_start, report_from


def build_model(
    cfg: Config,
    device: torch.device,
    start: Start | None = None,
    peers: Peers = ALONE,
    source: Source | None = None,
) -> tuple[SSLMetaArch, list[str]]:
    """The model at its start, on the device, teachers loaded; and what there is to say about it.

    ``source``: the training images, of which a stem may be made; None: it stays as it was drawn.
    ``start.found`` is the checkpoint training goes on from: it holds the student, so given weights are not read again.
    """
    start = start or Start()
    chosen = precision.resolve_block(cfg.compute_precision, device)

    def assemble() -> tuple[SSLMetaArch, list[str]]:
        try:
            model = SSLMetaArch(cfg, device, chosen, peers)
            model.init_weights(torch.Generator(device).manual_seed(cfg.train.seed))
            if start.found is not None:
                began = remember_start(model, report_from(read_train_state(start.found).get("pretrained")))
            elif start.beginning is not None:
                began = take_over(model, start.beginning)
            else:
                began = load_pretrained(model)
                if source is not None and model.pretrained is None:
                    began += fit_stem(model, source)
            kept = prepare_to_continue(model)
        except ValueError as error:  # an architecture or teacher that the keys alone could not rule out
            raise ConfigError("config", "", str(error)) from error
        return model, began + load_teachers(model) + kept

    model, done = all_processes_or_none(assemble)
    return model, done + model.prepare_for_distributed_training()


@torch.no_grad()
def load_pretrained(model: SSLMetaArch) -> list[str]:
    """Fill the student from ``student.pretrained_weights``, and with it every model that starts as its copy.

    Before sharding and before ``load_teachers``. Returns what was loaded, to be printed.
    """
    report = load_start(model.student, model.cfg.student)
    remember_start(model, report)
    if report is None:
        return []
    for name, module in model.model_ema.items():
        module.load_state_dict(model.student[name].state_dict())
    model.copy_start_to_teachers()
    return report.lines()


def remember_start(model: SSLMetaArch, report: LoadReport | None) -> list[str]:
    """What a run began with, which a resumed one does not read again."""
    model.pretrained = report
    model.heads_missing = report is not None and not report.has_heads
    return [] if report is None else [f"start      {report.path} was read at step 0"]


def load_teachers(model: SSLMetaArch) -> list[str]:
    """Fill the teachers that come from files, strictly; returns what was loaded, to be printed."""
    done = [line for teacher in model.teachers.values() for line in teacher.load()]
    if model.cfg.distillation.enabled:
        done.insert(0, load_model(model.teacher, Path(model.cfg.distillation.checkpoint_path)))
    return done
