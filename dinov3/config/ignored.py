"""Keys of published DINOv3 training YAMLs that DINOv3's own default config does not have.

They are accepted so that those files load unchanged, and dropped. The value beside each one is the one that asks for
nothing; any other value is told to the user.
"""

from __future__ import annotations

IGNORED: dict[str, tuple[str, ...]] = {
    "train.fsdp_reshard_after_forward": ("false",),  # compute_precision.sharding_strategy says it now
    "train.cell_augmentation": ("false",),
    "train.cell_augmentation_type": ("hpa",),
    "student.patch_drop": ("0", "0.0"),
    "student.drop_path_uniform": ("true",),
    "student.drop_path_shape": ("uniform",),
    "student.sin_cos_embeddings": ("false",),
    "student.fourier_embeddings": ("false",),
    "student.fourier_encoding_dim": ("64",),
    "student.multiple_pos_embeddings": ("false",),
    "student.cls_pos_embedding": ("false",),
    "student.reg_pos_embedding": ("false",),
    "student.block_chunks": ("0",),
    "student.mask_attention": ("false",),
    "student.mask_register_attention": ("false",),
    "student.interpolate_offset": ("0.0",),
    "student.interpolate_antialias": ("true",),
    "student.init_std_cls": ("0.02",),
    "student.init_std_reg": ("0.02",),
    "student.rescale_weights_by_layer_id": ("false",),
    "student.pos_embed_grid_size": ("48",),
    "student.pos_embed_rope_gamma": ("1.0",),
    "student.pos_embed_rope_init_multi_frequencies": ("false",),
    "student.sparse24_ranges": ("[]",),
    "student.sparse24_filter": ("['mlp']",),
    "student.sparse24_default": ("false",),
    "coding_rate_loss.use_cls_loss": ("false",),
    "coding_rate_loss.cls_loss_weight": ("0.2",),
    "coding_rate_loss.use_masked_patches_loss": ("false",),
    "coding_rate_loss.masked_patches_loss_weight": ("0.1",),
    "coding_rate_loss.epsilon": ("8",),
}
