"""A fair comparison: the same budget, the same tuning and the same seeds for every method, and backprop among them.

| module | holds |
|---|---|
| `config` | `StudyConfig`, read from YAML, options and `--set key=value` |
| `spelling` | `forward:16` as a method and its settings, and the label of a method |
| `plan` | the rows of a study, backprop and its checkpointed forms first |
| `fit` | the largest batch whose step fits under a peak |
| `rates`, `tuner` | which learning rate to try next, and the search among them |
| `prepare` | costs, batches and learning rates: all that must be known before the runs |
| `standings`, `table` | rows out of a record: figures with spread, differences to backprop, what it took |
"""
