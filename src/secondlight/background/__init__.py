"""Background statistics, models and their subtraction."""
