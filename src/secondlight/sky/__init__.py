"""The sky: tracts and patches, matching of positions, association of isolated stars."""
