"""Simulated surveys with known truth: the same sky in many visits, through one camera's eyes."""
