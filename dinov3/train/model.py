"""The model as training begins or goes on with it."""

from __future__ import annotations

import torch

from dinov3.config.errors import ConfigError
from dinov3.config.schema import Config
from dinov3.distributed.agreement import all_processes_or_none
from dinov3.distributed.peers import ALONE, Peers
from dinov3.engine import precision
from dinov3.runs.manifest import read_train_state
from dinov3.runs.start import Start
from dinov3.train.adapters import prepare_to_continue
from dinov3.train.ssl_meta_arch import SSLMetaArch
from dinov3.train.start_from import take_over
from dinov3.weights.pretrained import report_from


def build_model(
    cfg: Config, device: torch.device, start: Start | None = None, peers: Peers = ALONE
) -> tuple[SSLMetaArch, list[str]]:
    """The model at its start, on the device, teachers loaded; and what there is to say about it.

    ``start.found`` is the checkpoint training goes on from: it holds the student, so given weights are not read again.
    """
    start = start or Start()
    chosen = precision.resolve(cfg.compute_precision.param_dtype, device)

    def assemble() -> tuple[SSLMetaArch, list[str]]:
        try:
            model = SSLMetaArch(cfg, device, chosen, peers)
            model.init_weights(torch.Generator(device).manual_seed(cfg.train.seed))
            if start.found is not None:
                began = model.remember_start(report_from(read_train_state(start.found).get("pretrained")))
            elif start.beginning is not None:
                began = take_over(model, start.beginning)
            else:
                began = model.load_pretrained()
            kept = prepare_to_continue(model)
        except ValueError as error:  # an architecture or teacher that the keys alone could not rule out
            raise ConfigError("config", "", str(error)) from error
        return model, began + model.load_teachers() + kept

    model, done = all_processes_or_none(assemble)
    return model, done + model.prepare_for_distributed_training()
