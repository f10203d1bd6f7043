"""Pipeline definitions for ``pipetask`` and BPS."""
