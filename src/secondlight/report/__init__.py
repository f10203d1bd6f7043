"""What a person looks at: numbers, pages and plots about a run."""
