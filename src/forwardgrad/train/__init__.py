"""The training room: typed configs, tasks, one loop, fair comparisons and their reports.

The library never trains; this room does, and the command `forwardgrad` is its door.

| module | holds |
|---|---|
| `config` | `RunConfig`, read from YAML, options and `--set key=value`; unknown keys are errors |
| `tasks/` | one file per task: data, model, loss, score |
| `inventory` | which tasks' data is there |
| `methods` | one small class per method name: its settings, and how it is built |
| `loop` | `train_run`: one method, one seed; with `batches`, `budget`, `descent` (the optimizer), `randomness` |
| `keeper` | when a checkpoint is due; with `state`, `checkpoint`, `tree`, `interrupt` |
| `seeding` | independent random streams out of one seed |
| `lock`, `vacancy`, `space` | a folder for one process, without another run in it, on a disk with room |
| `shortage` | how running out of memory is recognised, and what is said of it |
| `replay` | weights from keys and slopes; with `replaylog`, `replaywriter`, `replayed` |
| `comparison` | several methods, the same seeds, the same number of forward passes; `demo` is one of them |
| `study/` | fair comparisons: equal budgets, tuned learning rates, rows with spread |
| `depth` | memory of a step as a net gets deeper |
| `record`, `output` | what a run leaves behind, written atomically |
| `tally`, `probing` | slopes counted while it trains; estimates beside the true gradient |
| `logs` | a line of JSON per point; with `tensorboard`, `weights_and_biases` |
| `page/` | one HTML file out of run folders: tables, charts, configs |
| `summary`, `report`, `picture`, `passports` | rows, tables and progress bars, the figure, what each method needs |

Nothing is imported here, so that `forwardgrad --help` need not wait for torch.
"""
