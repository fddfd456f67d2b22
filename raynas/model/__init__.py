"""What a search method thinks with: encodings, predictors, targets, acquisition functions, candidates."""
