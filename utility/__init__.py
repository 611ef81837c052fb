"""Names that seed documents and other programs import from a checkout; the code is in ``dinov3``. Not part of a wheel."""
