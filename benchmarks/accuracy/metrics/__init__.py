"""One file per subject; each takes measurements and truth, and returns numbers with their errors."""
