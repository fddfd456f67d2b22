"""What `python -m raynas.compare` does: read its configuration, simulate many runs, summarise them."""
