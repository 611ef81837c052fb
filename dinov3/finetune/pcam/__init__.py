"""PatchCamelyon: fetched, verified, or made in its official form (Veeling et al. 2018)."""
