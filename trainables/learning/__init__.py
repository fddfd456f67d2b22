"""The library of torch below the trials: data, recipes, networks, training."""
