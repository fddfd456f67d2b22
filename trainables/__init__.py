"""What a trial does, by name; imported on first use by `raynas.registry.resolve`."""

TRAINABLES: dict[str, str] = {
    "lookup": "trainables.lookup:LookupTrial",
    "train": "trainables.train:TrainTrial",
}
