"""What is timed, and how: ``make bench`` runs everything here that its inputs are there for."""
