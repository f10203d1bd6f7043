"""What the measurement of all sources of a detector costs, plugin by plugin, beside the peers."""
