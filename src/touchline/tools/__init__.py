"""Tools that prepare or examine and are not on the way of a run.

Interview for a first experiment, import of other tools' experiments, probes and self-test on this machine, doctor,
optimisation of one run, sample sizes of a design, reproduction of a finished run.
In: a question, a folder, a plan or this machine, and the user config. Out: files to run, measurements or findings.
"""
