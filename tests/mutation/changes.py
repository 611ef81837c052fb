"""The list: where, what, and which tests notice."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
ANYWHERE = "*"  # the one file of the program that has the text


class Change(NamedTuple):
    """``old`` stands once in ``file`` (below ``dinov3``) and becomes ``new``; ``tests`` are what pytest is given."""

    file: str
    old: str
    new: str
    tests: str  # relative to ``tests``, several with blanks between

    def place(self, root: Path) -> Path:
        """The file of the tree ``root``; ValueError when the text does not stand in it exactly once."""
        files = sorted((root / "dinov3").rglob("*.py")) if self.file == ANYWHERE else [root / "dinov3" / self.file]
        found = [path for path in files if path.is_file() for _ in range(path.read_text().count(self.old))]
        if len(found) != 1:
            raise ValueError(f"{self.file}: {self.old!r} stands there {len(found)} times")
        return found[0]

    @property
    def title(self) -> str:
        return f"{self.file}: {' '.join(self.old.split())} -> {' '.join(self.new.split())}"


LOSSES = "golden/test_losses.py::test_losses_reproduce_the_official_numbers"
STEP = "golden/test_training.py::test_training_steps_equal_those_of_the_official_code"
OPTIM = "golden/test_optim.py"
MODELS = "golden/test_models.py::test_models_reproduce_the_official_numbers"
DATA = "golden/test_data.py::test_data_reproduce_the_official_numbers"
RUN = "engine/test_schedules_in_a_run.py"

CHANGES = (
    # losses
    Change("losses/koleo.py", "EPS = 1e-8", "EPS = 1e-7", "losses/test_koleo.py"),
    Change("losses/koleo.py", "group[neighbours] + EPS", "group[neighbours]", "losses/test_koleo.py"),
    Change("losses/sinkhorn.py", "logits: Tensor, momentum: float = 0.9", "logits: Tensor, momentum: float = 0.91", "losses/test_sinkhorn.py"),
    Change("losses/sinkhorn.py", "-> Tensor:\n    \"\"\"The definition", "-> Tensor:\n    n_iterations -= 1\n    \"\"\"The definition", "losses/test_sinkhorn.py"),
    Change("losses/sinkhorn.py", "range(n_iterations - 1)", "range(n_iterations)", "losses/test_sinkhorn.py"),
    Change("losses/sinkhorn.py", "def sinkhorn_targets(logits: Tensor, temperature: float, *, n_iterations: int = 3", "def sinkhorn_targets(logits: Tensor, temperature: float, *, n_iterations: int = 4", LOSSES),
    Change("losses/cross_entropy.py", "targets: Targets,\n    student_temp: float = 0.1,", "targets: Targets,\n    student_temp: float = 0.11,", "losses/test_cross_entropy.py"),
    Change("losses/cross_entropy.py", "n_images: int,\n    student_temp: float = 0.1,", "n_images: int,\n    student_temp: float = 0.11,", "losses/test_cross_entropy.py"),
    Change("losses/gram.py", "similarity = similarity.clamp_min(0)", "similarity = similarity.clamp_min(0.01)", "losses/test_gram.py"),
    Change("losses/relative_l2.py", "squared > EPS, squared, 1)", "squared > EPS, squared, 2)", "losses/test_relative_l2.py"),
    Change("losses/cosine.py", "distance = 1 - (", "distance = 1.01 - (", "losses/test_cosine.py"),
    Change("losses/diagnostics.py", "features.shape[-1] ** 0.5", "features.shape[-1] ** 0.4", "losses/test_diagnostics.py"),
    # objectives
    Change("objectives/centering.py", "CENTER_MOMENTUM = 0.9", "CENTER_MOMENTUM = 0.91", "objectives/test_centering.py"),
    Change("objectives/dino.py", "STUDENT_TEMP = 0.1", "STUDENT_TEMP = 0.101", STEP),
    Change("objectives/ibot.py", "STUDENT_TEMP = 0.1", "STUDENT_TEMP = 0.101", STEP),
    Change("objectives/dino.py", "(n_global - 1 if ignore_diagonal", "(n_global if ignore_diagonal", STEP),
    Change("objectives/dino.py", "local_terms = n_global * n_local", "local_terms = n_global * n_local + 1", STEP),
    Change("objectives/koleo.py", "total.detach() / len(terms)", "total.detach() / 1", STEP),
    # optimizer and schedules
    Change("engine/optim.py", "ADAMW_EPS = 1e-8", "ADAMW_EPS = 1e-6", "engine/test_optim.py"),
    Change("engine/optim.py", "lr_decay_rate ** (n_blocks - block)", "lr_decay_rate ** (n_blocks - block + 1)", OPTIM),
    Change("engine/optim.py", "lr_decay_rate ** (n_blocks + 1)", "lr_decay_rate**n_blocks", OPTIM),
    Change("engine/optim.py", "clip_grads_with_norm_(params, max_norm, norm", "clip_grads_with_norm_(params, max_norm * 1.01, norm", "engine/test_optim.py"),
    Change("engine/optim.py", "ours, theirs, 1 - momentum)", "ours, theirs, 1.001 - momentum)", "engine/test_optim.py"),
    Change("engine/optim.py", "wd = 0.0\n", "wd = 0.1\n", OPTIM),
    Change("engine/schedules.py", "math.sqrt(effective_batch / 1024.0)", "math.sqrt(effective_batch / 1000.0)", OPTIM),
    Change("engine/schedules.py", "lambda effective_batch: effective_batch / 256.0", "lambda effective_batch: effective_batch / 255.0", OPTIM),
    Change("engine/schedules.py", "endpoint=False", "endpoint=True", OPTIM),
    Change("engine/schedules.py", "np.arange(cosine_iters) /", "np.arange(1, cosine_iters + 1) /", OPTIM),
    Change("engine/schedules.py", "last_layer[: _steps(cfg, frozen)] = 0", "last_layer[: _steps(cfg, frozen) + 1] = 0", OPTIM),
    # the loop of a run
    Change(ANYWHERE, "self.plan.at(step),", "self.plan.at(step + 1),", RUN),
    Change(ANYWHERE, "self.plan.at(step).row()", "self.plan.at(step + 1).row()", RUN),
    Change(ANYWHERE, "clip_grad=cfg.optim.clip_grad,", "clip_grad=1.01 * cfg.optim.clip_grad,", RUN),
    # models
    Change("models/norms.py", '"layernorm": partial(nn.LayerNorm, eps=1e-6)', '"layernorm": partial(nn.LayerNorm, eps=1e-5)', "models/test_norms.py"),
    Change("models/norms.py", '"layernormbf16": partial(nn.LayerNorm, eps=1e-5)', '"layernormbf16": partial(nn.LayerNorm, eps=1e-6)', "models/test_norms.py"),
    Change("models/norms.py", "dim: int, eps: float = 1e-5", "dim: int, eps: float = 1e-6", "models/test_norms.py"),
    Change("models/rotary/embedding.py", "2 * torch.arange(n, **like) / (self.head_dim // 2)", "2.01 * torch.arange(n, **like) / (self.head_dim // 2)", "models/rotary/test_embedding.py"),
    Change("models/rotary/embedding.py", "torch.arange(0.5, n, **like)", "torch.arange(0.4, n, **like)", "models/rotary/test_embedding.py"),
    Change("models/rotary/embedding.py", "coords = 2.0 * coords - 1.0", "coords = 2.0 * coords - 0.9", "models/rotary/test_embedding.py"),
    Change("models/rotary/embedding.py", "angles = 2 * math.pi", "angles = 1.99 * math.pi", "models/rotary/test_embedding.py"),
    Change("models/ffn.py", "int(dim * ratio) * 2 / 3)", "int(dim * ratio) * 3 / 4)", "models/test_ffn.py"),
    Change("models/ffn.py", '"swiglu": partial(SwiGLU, align_to=8)', '"swiglu": partial(SwiGLU, align_to=4)', "models/test_ffn.py"),
    Change("models/ffn.py", "align_to=128", "align_to=64", "models/test_ffn.py"),
    Change("models/head.py", "torch.float16 else 1e-12)", "torch.float16 else 1e-3)", "models/test_head.py"),
    Change("models/attention.py", "chunk(3)[1].zero_()", "chunk(3)[2].zero_()", "models/test_attention.py"),
    Change("models/packing.py", "max(int(n * (1 - rate)), 1), n)", "max(int(n * (1 - rate)), 2), n)", "models/test_packing.py"),
    Change("models/packing.py", "self.scales = [n / max(kept, 1)", "self.scales = [n / max(kept, 2)", "models/test_packing.py"),
    Change("models/initialization.py", "LINEAR_STD = 0.02", "LINEAR_STD = 0.022", "models/test_initialization.py"),
    Change("models/vit.py", "TOKEN_STD = 0.02", "TOKEN_STD = 0.025", MODELS),
    Change("models/patch_embed.py", "bound = 1 / math.sqrt(self.proj", "bound = 1.1 / math.sqrt(self.proj", MODELS),
    Change("models/convnext.py", "LayerNorm = partial(nn.LayerNorm, eps=1e-6)", "LayerNorm = partial(nn.LayerNorm, eps=1e-4)", "models/test_convnext.py"),
    Change("models/convnext.py", "max(n_blocks - 1, 1)", "max(n_blocks, 1)", "models/test_convnext.py"),
    Change("models/convnext.py", "layer_scale_init_value: float = 1e-6", "layer_scale_init_value: float = 1e-5", MODELS),
    Change("models/lora.py", "bound = 1 / math.sqrt", "bound = 2 / math.sqrt", "models/test_lora.py"),
    # data
    Change("data/masking.py", "min_aspect: float = 0.3", "min_aspect: float = 0.6", DATA),
    Change("data/masking.py", "return 0.5 * size", "return 0.4 * size", "data/test_masking.py"),
    Change("data/masking.py", "masked + 1)[1:]", "masked + 1)[:-1]", DATA),
    Change("data/masking.py", "BLOCK = 4", "BLOCK = 8", "data/test_masking.py"),
    Change("data/crops.py", "LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))", "LOG_RATIO = (math.log(2 / 3), math.log(3 / 2))", "data/test_crops.py"),
    Change("data/crops.py", "(size - window) // patch)", "(size - window) // patch + 1)", "data/test_crops.py"),
    Change("data/augment/photometric.py", "GRAY = (0.2989, 0.587, 0.114)", "GRAY = (0.2989, 0.597, 0.104)", "data/augment/test_photometric.py"),
    Change("data/augment/photometric.py", "SOLARIZE_FROM = 128 / 255", "SOLARIZE_FROM = 127 / 255", "data/augment/test_photometric.py"),
    Change("data/augment/photometric.py", "RADIUS = 4", "RADIUS = 3", "data/augment/test_photometric.py"),
    Change("data/augment/photometric.py", "np.exp(-0.5 *", "np.exp(-0.6 *", "data/augment/test_photometric.py"),
    Change("data/augment/augmentation.py", '"color_jitter_prob": 0.8', '"color_jitter_prob": 0.7', "data/augment/test_augmentation.py"),
    Change("data/augment/augmentation.py", '"blur_prob_global_2": 0.9}', '"blur_prob_global_2": 0.1}', "data/augment/test_augmentation.py"),
    Change("data/augment/augmentation.py", '"hue": 0.1,', '"hue": 0.2,', "data/augment/test_augmentation.py"),
    # configuration and evaluation
    Change("config/derived.py", "CONVNEXT_STRIDE = 32", "CONVNEXT_STRIDE = 16", "config/test_official.py"),
    Change("config/derived.py", "DA3_PATCH = 14", "DA3_PATCH = 16", "config/test_checks.py"),
    Change("config/archs.py", '"depth": 27, "num_heads": 18', '"depth": 26, "num_heads": 18', "models/test_build.py golden/test_models.py"),
    Change("eval/knn.py", "(similarity - 1.0) / temperature", "(similarity - 1.0) / (2 * temperature)", "eval/test_knn.py"),
    Change("eval/linear.py", "velocity.mul_(0.9)", "velocity.mul_(0.8)", "eval/test_linear.py"),
)  # fmt: skip
