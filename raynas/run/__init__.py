"""One run on a Ray cluster: its store, what is recorded, shown and resumed."""
