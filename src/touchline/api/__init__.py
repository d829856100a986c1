"""Verbs of touchline, one function each, in the order of use. Start reading here.

    init      answers to an interview     -> experiment.yaml               a commented file to edit
    write_experiment, read_experiment                                      for experiments built in Python
    import_experiment  another tool's     -> experiment.yaml               and what could not be carried over
    check     experiments, configs, data  -> findings                      errors that would show up hours later
    plan      experiment.yaml             -> plan.json, runs_plan.md       starts nothing
    design    experiment.yaml             -> seeds and items, with costs   writes only with `apply`
    prepare   plan.json                   -> one folder per run            configs and job scripts
    run       a plan                      -> trained and scored runs       on this machine; rerun to finish
    submit    a plan                      -> jobs in the cluster's queue   returns at once; rerun to continue
    resume    an interrupted experiment   -> trained and scored runs       keeps the plan as it is
    status    run folders, queue          -> the state of every run        `logs` prints a run's output
    cancel    run folders, queue          -> jobs that save and end
    failures  a run                       -> causes of failed attempts     with the lines that show them
    evaluate  checkpoints                 -> .eval logs                    only those without current results
    collect   run folders                 -> status files, history         the history feeds later plans
    results   run folders                 -> scores, losses, durations     missing values carry a reason
    report    run folders                 -> RESULTS.md, report.html       also for folders of other tools
    compare   experiments                 -> paired differences
    figures   run folders                 -> altair charts                 for notebooks
    export    metrics.jsonl               -> TensorBoard or W&B
    publish   a finished run              -> a folder for the Hub          weights and model card; uploads nothing
    approve   a plan                      -> approval.json                 budget of an agent; `approved_budget`
    reproduce a finished run              -> the same, or what differs     trains it again in a folder of its own
    clean     an experiment               -> files safe to delete          deletes only with `delete`
    demo      nothing                     -> a finished small experiment

    estimate  options of a training       -> memory and time               without an experiment
    probe     a planned run               -> measured memory and speed     a few real steps
    optimize  an experiment               -> faster, equivalent settings
    place     jobs, GPUs, a deadline      -> a schedule                    `place_experiment` for a plan
    pack      sequence lengths            -> packed sequences              `pack_write`, `pack_check_isolation`
    history_* training logs               -> run records                   the evidence of later plans; `history` lists
    doctor    this machine, its cluster   -> what is missing
    selftest  this machine                -> checked steps

Verbs take and return values and print nothing. `source` is experiment.yaml or its folder, `paths` are files and
folders, and `settings` says where models, caches and the history are. `on_progress` receives counts, `on_message` one
sentence at a time.
"""

from __future__ import annotations

from touchline.api.authoring import import_experiment, init, read_experiment, write_experiment
from touchline.api.history import (
    history,
    history_calibration,
    history_export,
    history_import,
    history_list,
    history_read,
    history_rebuild,
    history_show,
)
from touchline.api.outcomes import (
    analyses,
    clean,
    collect,
    compare,
    data_audit,
    export,
    failures,
    figures,
    logs,
    publish,
    report,
    results,
    results_answer,
    status,
    strategy_line,
    strategy_section,
)
from touchline.api.planning import approve, approved_budget, check, check_fix, plan
from touchline.api.running import cancel, demo, evaluate, prepare, reproduce, resume, run, submit
from touchline.api.sizing import (
    design,
    doctor,
    estimate,
    optimize,
    pack,
    pack_check_isolation,
    pack_write,
    place,
    place_experiment,
    probe,
    selftest,
)
from touchline.experiment.experiment import Experiment

__all__ = ["Experiment", "import_experiment", "init", "read_experiment", "write_experiment"]
__all__ += ["history", "history_calibration", "history_export", "history_import", "history_list", "history_read"]
__all__ += ["history_rebuild", "history_show"]
__all__ += ["analyses", "clean", "collect", "compare", "data_audit", "export", "failures", "figures", "logs", "publish"]
__all__ += ["report", "results", "results_answer", "status", "strategy_line", "strategy_section"]
__all__ += ["approve", "approved_budget", "check", "check_fix", "plan"]
__all__ += ["cancel", "demo", "evaluate", "prepare", "reproduce", "resume", "run", "submit"]
__all__ += ["design", "doctor", "estimate", "optimize", "pack", "pack_check_isolation", "pack_write", "place"]
__all__ += ["place_experiment", "probe", "selftest"]
