"""How right the measurements are: outputs on simulated surveys against the truth they were made from."""
