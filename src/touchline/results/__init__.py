"""Results of our own and of imported runs: scores, measurements, checkpoint verification, live status.

In: a plan and its run folders, or folders of runs of another tool. Out: RunResult, RunMetrics, LiveRun, Verification
and ReportInputs, which report, history and the commands read.
"""
