"""Pages of the codes that the readers of backends' configs give; see `documented`."""

from __future__ import annotations

from touchline.domain.finding import Severity

_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO

DOCUMENTED_CONFIGS: dict[str, tuple[Severity, str, str]] = {
    "BK001": (
        _E,
        "backend-cannot",
        """A setting that the backend cannot do.

        Why: what it does not do as written, it refuses.

        Fix: the message says what it can do.
        """,
    ),
    "BK002": (
        _E,
        "finetune-yaml",
        """A finetune.yaml of our own trainer that it cannot read.

        Why: the trainer takes nothing that it does not know.

        Fix: do not edit finetune.yaml; edit setup_finetune.yaml and accept the change.
        """,
    ),
    "BK003": (
        _E,
        "devices-not-used",
        """`compute.gpus_per_run` asks for more devices than a run can use, or for none of a GPU that is planned for.

        Why: the job reserves all of them and computes on one, so the others are paid for and idle; and a plan for
        several would promise a speed that the run does not have.

        Fix: one GPU per run, and several runs at once: the message says how many the trainer and the machine use.
        """,
    ),
    "BK010": (
        _E,
        "config-not-readable",
        """A config that is no YAML or JSON mapping, is empty, holds tags, or is larger or deeper than any config.

        Why: the trainer would end at once, or read something else; one empty file of a sweep went unseen for weeks.

        Fix: the line and column are where reading stopped.

        Bad: torchtune
            !whole
            batch_size: [4
        """,
    ),
    "BK011": (
        _E,
        "unknown-setting",
        """A key that the trainer does not have, and that looks like one it has.

        Why: some trainers refuse it after the job has started, others leave it out in silence and train something else.

        Fix: take the key that is proposed.
        """,
    ),
    "BK012": (
        _E,
        "wrong-setting",
        """A value of another kind than its key takes, or not among those allowed.

        Why: the trainer fails on it when it gets there, which may be after loading the model.

        Fix: write the value as the message expects it.
        """,
    ),
    "BK013": (
        _E,
        "missing-setting",
        """A key is missing without which the trainer cannot start.

        Why: it fails in the job instead of here.

        Fix: write the key.
        """,
    ),
    "BK014": (
        _E,
        "number-read-as-text",
        """A number that this trainer's YAML loader reads as text, such as `5e-5`.

        Why: PyYAML follows YAML 1.1, where a number with an exponent needs a point and a sign; arithmetic with
        a text fails.

        Fix: write `5.0e-5`.
        """,
    ),
    "BK015": (
        _W,
        "key-given-twice",
        """A key stands twice in one mapping.

        Why: OmegaConf refuses such a file; PyYAML takes the last one without a word, so that
        half of what was written is ignored.

        Fix: keep one of them.
        """,
    ),
    "BK016": (
        _E,
        "settings-exclude-each-other",
        """Settings that the trainer itself refuses together.

        Why: its own validator would say so, but only once the job has started.

        Fix: the message names both settings.
        """,
    ),
    "BK017": (
        _W,
        "old-name",
        """A key that newer versions of the trainer have renamed or removed.

        Why: with a newer version the config fails, or the key is left out.

        Fix: take the new name, or pin the version that the config is for.
        """,
    ),
    "BK018": (
        _E,
        "refers-to-nothing",
        """An interpolation or a component that does not exist.

        Why: it is resolved when the job runs, and fails there.

        Fix: mend the name; nothing is imported to check it.
        """,
    ),
    "BK019": (
        _W,
        "not-what-happens",
        """A setting that the trainer changes or ignores without saying so.

        Why: what was asked for is not what runs, and a comparison of the two settings compares nothing.

        Fix: the message says what really happens.
        """,
    ),
    "BK020": (
        _W,
        "runs-foreign-code",
        """`trust_remote_code: true`.

        Why: code that comes with the model is run with your rights, and it can change from one download to the next.

        Fix: leave it out for models that transformers has itself.
        """,
    ),
    "BK023": (
        _W,
        "file-not-there",
        """A file that a config names is not there, although the folder that it should be in is.

        Why: the job ends when it reads it, which may be after loading the model. Where the folder is not here either
        nothing is said: the config is then for another machine.

        Fix: mend the path; a file of nearly that name is proposed.
        """,
    ),
    "BK024": (
        _E,
        "trains-on-validation",
        """Validation on slices of the data that are trained on.

        Why: its loss then falls with learning by heart, and says nothing about new examples.

        Fix: slices that do not overlap, `train[:95%]` and `train[95%:]`.

        Bad: torchtune
            dataset: {split: "train[:95%]"}
            dataset_val:
              _component_: torchtune.datasets.instruct_dataset
              source: json
              data_files: data/words.json
              split: train[90%:]

        Good: torchtune
            dataset: {split: "train[:95%]"}
            dataset_val:
              _component_: torchtune.datasets.instruct_dataset
              source: json
              data_files: data/words.json
              split: train[95%:]
        """,
    ),
    "BK025": (
        _E,
        "file-of-another-form",
        """A local data file is not of the format that is named, or its rows are not where `field` says.

        Why: load_dataset refuses it, or makes one row of the whole file. `field` is the key of a JSON object that has
        the rows; `split` chooses nothing in one file.

        Fix: the format of the file's ending; `field: train` for an object of splits, and none for a list of rows.
        """,
    ),
    "BK026": (
        _E,
        "columns-not-in-the-data",
        """A column, or a dataset, that the config names is not in the data beside it.

        Why: the job ends with a key error when it builds the first row.

        Fix: a name that is there; of LLaMA-Factory an entry in dataset_info.json.
        """,
    ),
    "BK030": (
        _E,
        "own-validator-refuses",
        """The trainer's own validator refuses the config.

        Why: the trainer would say the same when the job starts.

        Fix: the message is the validator's; where none is installed this is not checked, and that is said.
        """,
    ),
    "BK031": (
        _E,
        "checkpoint-file-broken",
        """A checkpoint file that the config names is missing or broken, although its folder is there.

        Why: the job ends at loading the base model.

        Fix: download the file again, or mend its name.
        """,
    ),
    "BK021": (
        _E,
        "packed-rows-mixed",
        """Packed examples that are not kept apart.

        Why: each example is trained with the ones before it in its row as context, and the loss looks better than it
        is. In LLaMA-Factory that is certain, and an error; where an attention kernel decides, it is noted.

        Fix: `neat_packing: true` in LLaMA-Factory, an attention kernel that knows of packing in axolotl.

        Bad: llamafactory
            packing: true

        Good: llamafactory
            packing: true
            neat_packing: true
        """,
    ),
    "CK040": (
        _E,
        "adapter-incomplete",
        """The folder that a training goes on from holds half an adapter: its config without weights, or the reverse.

        Why: PEFT needs both, and refuses once the base model is loaded.

        Fix: copy the whole folder again.
        """,
    ),
    "CK041": (
        _E,
        "checkpoint-broken",
        """A file of the adapter or the checkpoint that a training goes on from is cut off or cannot be read.

        Why: a job that was killed while it saved leaves such files.

        Fix: go on from the checkpoint before it, or copy it again.
        """,
    ),
    "CK042": (
        _E,
        "checkpoint-of-another-training",
        """The adapter that a training goes on from has another base model, or another rank than the config states.

        Why: the weights of another base do not fit; an adapter that is loaded keeps its own rank.

        Fix: the adapter of this chain, and its rank in the config.
        """,
    ),
    "CK043": (
        _W,
        "checkpoint-without-state",
        """The checkpoint to go on from lacks the trainer's state, or is already at the training's last step.

        Why: transformers then begins at step 0 again with a new optimizer, or trains nothing, and says so nowhere.

        Fix: a whole checkpoint (save_only_model: false), or more steps.
        """,
    ),
}
