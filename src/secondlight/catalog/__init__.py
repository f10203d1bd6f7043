"""The types that flow between rooms: footprints, source catalogs, visit summaries, and storage."""
