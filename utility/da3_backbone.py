"""``build_da3_backbone(da3_cfg) -> (model, embed_dim)`` under the name the seed documents give it; the code is in ``dinov3``."""

from dinov3.models.da3 import PATCH
from dinov3.teachers.da3_backbone import Da3Backbone, build_da3_backbone, teacher_input_size

__all__ = ["PATCH", "Da3Backbone", "build_da3_backbone", "teacher_input_size"]
