"""``gram.source``: where the Gram teacher comes from, in a word, for the keys DINOv3 says it with."""

from __future__ import annotations

from dinov3.config.errors import KeyProblem
from dinov3.config.schema import GramConfig

OUT = {"gram.ema_teacher": "false", "gram.ckpt": "null", "gram.it_load_ema_teacher": "-1"}  # switches each key off
WORDS = {"gram.ema_teacher": "ema", "gram.ckpt": "path", "gram.it_load_ema_teacher": "self"}


def resolve_gram_source(gram: GramConfig) -> None:
    """Set the keys a source stands for; KeyProblem when a source lacks one, or another key says something else."""
    if gram.source is None:
        return
    on = {
        "gram.ema_teacher": gram.ema_teacher,
        "gram.ckpt": gram.ckpt is not None,
        "gram.it_load_ema_teacher": gram.it_load_ema_teacher >= 0,
    }
    own = {"init": "gram.it_load_ema_teacher", "self": "gram.it_load_ema_teacher", "ema": "gram.ema_teacher"}
    for key, said in on.items():
        if said and key != own.get(gram.source, "gram.ckpt"):
            raise KeyProblem(
                "gram.source", f"{gram.source}, but {key} is given: set it to {OUT[key]}, or gram.source={WORDS[key]}"
            )
    if gram.source == "init":
        if gram.it_load_ema_teacher > 0:
            raise KeyProblem(
                "gram.source",
                f"init is the weights before step 0, but gram.it_load_ema_teacher is {gram.it_load_ema_teacher}: "
                "set it to -1, or gram.source=self",
            )
        gram.it_load_ema_teacher, gram.rep_update = 0, False
    elif gram.source == "ema":
        gram.ema_teacher = True
    elif gram.source == "self" and not on["gram.it_load_ema_teacher"]:
        raise KeyProblem("gram.source", "self needs gram.it_load_ema_teacher: the step at which the EMA is copied")
    elif gram.source == "path" and not on["gram.ckpt"]:
        raise KeyProblem("gram.source", "path needs gram.ckpt: a run folder or a .pth")
