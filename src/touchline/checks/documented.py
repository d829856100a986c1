"""Pages of the codes that readers give: what cannot even be read is found before any rule could look at it.

Each entry is (usual severity, name, page); a page has the sections of a rule's docstring.
"""

from __future__ import annotations

from touchline.domain.finding import Severity

_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO

DOCUMENTED: dict[str, tuple[Severity, str, str]] = {
    "EX001": (
        _E,
        "experiment-not-readable",
        """experiment.yaml is no YAML mapping, has a key twice, or is larger or deeper than any experiment.

        Why: of a file that is read in two ways nobody knows which one will run.

        Fix: the line and column are where reading stopped; a key that is given twice must go once.

        Bad: folder
            == experiment.yaml
            name: one
            name: two
        """,
    ),
    "EX002": (
        _E,
        "unknown-key",
        """A key that experiment.yaml does not have.

        Why: a misspelt key would be left out in silence, and another experiment would run than the one written.

        Fix: take the key that is proposed; docs/reference/experiment.md lists all of them.

        Bad: experiment
            train:
              learnin_rate: 1e-3

        Good: experiment
            train:
              learning_rate: 1e-3
        """,
    ),
    "EX003": (
        _E,
        "wrong-value",
        """A value of another kind, or outside the bounds of its key.

        Why: nothing is coerced, because `"8"`, `8.0` and `yes` mean different things to different readers.

        Fix: write the value as the message expects it.

        Bad: experiment
            train:
              epochs: 0

        Good: experiment
            train:
              epochs: 1
        """,
    ),
    "EX004": (
        _E,
        "missing-key",
        """A key without which there is no experiment.

        Why: models and data have no default that could be right.

        Fix: write the key; `touchline models list` tells which models are here.
        """,
    ),
    "EX005": (
        _E,
        "wrong-override",
        """An override on the command line that is no `key=value`, or whose value is no YAML.

        Why: an override that is not understood would be an experiment that nobody asked for.

        Fix: write dotted keys, `train.epochs=2`, and quote what the shell would change.
        """,
    ),
    "EX006": (
        _E,
        "wrong-name",
        """A name that cannot become a folder and a job's name.

        Why: names become folders, job names and columns, on every file system.

        Fix: letters, digits, `.`, `_` and `-`, at most 80, a letter or digit first.

        Bad: experiment
            name: "my experiment/1"
        """,
    ),
    "EX007": (
        _E,
        "level-given-twice",
        """A level of a factor, a seed or a model is given twice.

        Why: the same run would be made twice and counted as two.

        Fix: take one of them out; replicates are seeds.

        Bad: experiment
            factors:
              train.lora.rank: [4, 4]

        Good: experiment
            factors:
              train.lora.rank: [4, 8]
        """,
    ),
    "EX008": (
        _E,
        "nothing-left",
        """`exclude` takes out every run.

        Why: an experiment without runs answers nothing.

        Fix: narrow the entry of `exclude`; a run goes only when every key of an entry matches.
        """,
    ),
    "EX009": (
        _E,
        "names-not-unique",
        """The pattern of `run_names` gives several runs one name, or uses a part that does not exist.

        Why: two runs in one folder would overwrite each other.

        Fix: put what varies into the pattern, or leave `run_names` out.
        """,
    ),
    "EX010": (
        _E,
        "models-of-one-name",
        """Two model folders of the same name.

        Why: their runs could not be told apart in tables and folders.

        Fix: rename one of them, or link to it under another name.
        """,
    ),
    "EX011": (
        _W,
        "link-leads-back",
        """A link that leads back into the folders above it, or nowhere.

        Why: tools that follow links never come to an end there; touchline does not follow them.

        Fix: remove the link.
        """,
    ),
    "EX012": (
        _W,
        "not-looked-into",
        """A file or folder that could not be opened.

        Why: what was not looked at is not checked.

        Fix: give yourself the permission, or leave it out of the paths.
        """,
    ),
    "EX013": (
        _E,
        "nothing-to-check",
        """A folder without any config, script or data.

        Why: a check that looked at nothing must not pass, or a wrong path would pass every time.

        Fix: name the folder that holds the experiment or the runs.
        """,
    ),
    "EX014": (
        _I,
        "no-known-config",
        """A file that was named and is of no known format.

        Why: its keys fit none of the trainers, so either the file or a good part of its keys is wrong.

        Fix: compare its keys with those of the trainer it is for.
        """,
    ),
    "EX015": (
        _E,
        "task-not-runnable",
        """A task that does not exist, a file that holds none, or a metric that the task does not have.

        Why: the evaluation comes after the training, so a wrong name would show when the hours are spent.

        Fix: a ready-made task's name, `exact_match` for any dataset and `classification` for labels, or
        `tasks/mine.py@name`, a file with a function under `@task`, relative to experiment.yaml. The file is parsed and
        hashed here; only the evaluation process runs it.

        Bad: experiment
            task: capitalisation

        Good: experiment
            task: capitalization
        """,
    ),
    "US101": (
        _E,
        "settings-file",
        """The user's own config file has a key that does not exist, or a value that it cannot have.

        Why: models would be looked for in another place than the one meant, or jobs would ask for something else.

        Fix: the keys are models_dir, cache_dir, history_dir and slurm; `touchline doctor` tries what stands there.
        """,
    ),
    "CK100": (
        _I,
        "model-not-here",
        """A model that is not on this machine, so that nothing of it was checked.

        Why: `check` works where the models are not; `plan` and `run` need them and make this an error.

        Fix: name a folder under models_dir, or get the model; the hint says how.
        """,
    ),
    "CK101": (
        _E,
        "config-json",
        """A model's config.json is missing, is no JSON, or gives no dimensions.

        Why: without its dimensions neither memory nor time of a training can be said, and no trainer loads it.

        Fix: download the model again; a copy that was cut off often ends in the middle of this file.
        """,
    ),
    "CK102": (
        _E,
        "shards-index",
        """The list of a model's shards is missing, broken or names none.

        Why: the job would end at loading, after its hours in the queue.

        Fix: download that file too.
        """,
    ),
    "CK103": (
        _E,
        "no-safetensors",
        """A model folder without weights in safetensors.

        Why: other weights are read by unpickling, which runs whatever code their author put there.

        Fix: take the safetensors files of the same model.
        """,
    ),
    "CK104": (
        _E,
        "weights-broken",
        """A shard of the weights that is missing, is cut off, or lacks tensors.

        Why: a download that stopped looks whole by its name; the job would end at loading.

        Fix: download that file again.
        """,
    ),
    "CK105": (
        _W,
        "model-with-code",
        """A model whose config.json names code of its own.

        Why: that code would run with your rights; touchline never runs it.

        Fix: use a model that transformers has itself.
        """,
    ),
    "DA100": (
        _E,
        "data-not-usable",
        """The dataset that the experiment names cannot be used.

        Why: nothing can be planned without its rows.

        Fix: the message says what is wrong with the file.
        """,
    ),
    "DA101": (
        _E,
        "data-missing",
        """The dataset that the experiment names does not exist.

        Why: the job would end in its first minute, after its hours in the queue.

        Fix: name the file relative to experiment.yaml; where touchline can make it, the hint says how.
        """,
    ),
    "DA102": (
        _E,
        "data-not-readable",
        """A data file, or a line of it, that is not what its ending says.

        Why: loaders skip such lines or end there, each in its own way.

        Fix: mend the line; text must be UTF-8, and rows one a line are JSONL.

        Bad: data
            {"input": "a", "output": "b"}
            {"input": "c", "output":
        """,
    ),
    "DA103": (
        _E,
        "no-row",
        """An entry that is no row, or a split that names none.

        Why: rows must be objects of columns, under train, validation or test.

        Fix: write `{"column": value}`, one for each row.

        Bad: data
            {"input": "a", "output": "b"}
            ["c", "d"]
        """,
    ),
    "DA104": (
        _E,
        "splits",
        """A split that is missing or empty, or too few rows to make splits of.

        Why: without held-out rows nothing tells learning from remembering.

        Fix: give the rows of the split, or one list that is split at random.
        """,
    ),
    "DA105": (
        _E,
        "row-without-column",
        """A row without the column that the prompt or the answer comes from, or with nothing in it.

        Why: such a row trains on an empty answer, or ends the job. Of the column that `evaluate.cluster` names a test
        row may leave the cell empty, and then stands alone.

        Fix: name the columns under `data`, or mend the row.
        """,
    ),
    "DA106": (
        _E,
        "prompt-in-two-splits",
        """The same prompt is in two splits.

        Why: a model that has seen the question is not tested by it.

        Fix: take the rows out of the later split.
        """,
    ),
    "DA107": (
        _E,
        "data-too-large",
        """A data file that is too large to be read whole.

        Why: memory of the login node would run out.

        Fix: split the file.
        """,
    ),
    "DA108": (
        _E,
        "prompt-template",
        """The prompt shows no column, or shows the answer.

        Why: with one prompt for all rows, or with the answer in it, there is nothing to learn.

        Fix: write `{input}` where the row's input belongs.
        """,
    ),
    "DA201": (
        _E,
        "examples-too-long",
        """Training examples are longer than max_seq_len.

        Why: their answers would be cut, and a model learns to stop in the middle.

        Fix: raise max_seq_len to the longest example, or shorten the examples.
        """,
    ),
    "ME010": (
        _E,
        "estimate-option",
        """An option of `touchline estimate` that cannot be.

        Why: an estimate of something else than was meant is worse than none.

        Fix: the message says what is allowed.
        """,
    ),
    "PK010": (
        _E,
        "lengths-file",
        """A file of lengths that holds something else than counts of tokens.

        Why: packing is computed from these numbers alone.

        Fix: one positive integer for each example.
        """,
    ),
    "TK101": (
        _E,
        "tokenizer-missing",
        """A model folder without tokenizer.json, or with one that cannot be read.

        Why: without it nothing can be rendered as the model will see it.

        Fix: download the tokenizer's files; older models have a converted one beside them.
        """,
    ),
    "TK103": (
        _E,
        "tokenizer-config",
        """A file beside the tokenizer that is no JSON object.

        Why: it names the special tokens and often holds the chat template.

        Fix: download it again.
        """,
    ),
    "TK105": (
        _E,
        "chat-template",
        """The chat template does not compile, or reaches for what a template may not have.

        Why: training and evaluation would fail at their first example.

        Fix: mend the template, or take the one of the model's publisher.
        """,
    ),
    "TK102": (
        _E,
        "no-stop-token",
        """The tokenizer names no token that ends an answer.

        Why: a model that never learns to stop writes until its limit.

        Fix: name eos_token in tokenizer_config.json.
        """,
    ),
    "TK104": (
        _I,
        "no-chat-template",
        """The model has no chat template.

        Why: chats are then plain text, as for a base model; that is right only when it is meant.

        Fix: take the instruct model, or write prompts as plain text.
        """,
    ),
    "TR001": (
        _E,
        "micro-batch-too-large",
        """The micro-batch is larger than the global batch.

        Why: the global batch is what an optimizer step sees, the micro-batch a part of it.

        Fix: a micro-batch that divides the global batch, or `auto`.

        Bad: experiment
            train:
              global_batch_size: 4
              micro_batch_size: 8

        Good: experiment
            train:
              global_batch_size: 8
              micro_batch_size: 4
        """,
    ),
    "TR002": (
        _E,
        "longer-than-context",
        """max_seq_len is longer than the context that the model was made for.

        Why: positions beyond it were never trained; answers there are noise.

        Fix: max_seq_len at most the model's context.
        """,
    ),
}
