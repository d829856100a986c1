"""Past runs: logs and state files of any trainer, and the store of what they show.

In: files of a run and what users state of them. Lines become events, events segments, segments a reading of one run.
Out: `RunRecord`s in a folder, each in a file named by its hash, with an index; plans and estimates read them.
"""
