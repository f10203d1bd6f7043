"""What the final pass costs on one large detector, from a repository to a repository."""
