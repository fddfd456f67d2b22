"""A search on a Ray cluster that runs already: `python cluster.py HOST:PORT FOLDER`, and `... FOLDER resume` after an interruption.

The folder must be one that every node reaches: a shared file system, s3://bucket/run, gs://bucket/run.
"""

import sys

from raynas import resume_search, run_search


def main(address, folder, resume=""):
    """Searches with every slot of the cluster, or goes on, and prints the best and where they ran."""
    if resume:
        run = resume_search(folder, address=address)
    else:
        run = run_search(address=address, out=folder, trials=4, trainable="train", dataset="digits", recipe="quick", max_epochs=1)
    trials = run.tables.trials.to_pandas()
    print(trials.nlargest(3, "valid_accuracy")[["arch_id", "valid_accuracy", "node", "device"]].to_string(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
