"""Estimates of memory, time, disk and batch size, with intervals: a training setup and past runs in, estimates out.

Without I/O and without torch, except in `estimate/local`.
"""
