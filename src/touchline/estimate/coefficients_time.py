"""Prior rates of the step time and their spreads, used until something is measured on a machine.

Published tables and READMEs of trainers are named in `backends/*/__init__.py`.

Medians, and standard deviations of logarithms, for one device. Measurements on a machine replace them there.
"""

from __future__ import annotations

from typing import Final

GPU_STEP: Final = (0.015, 0.8)
"""Seconds of an optimizer step apart from its forward and backward passes (data, clipping, optimizer, logging), and
spread. Bounded by logs: 0.015 s is a tenth of the shortest steps that public logs show (0.15 to 0.23 s)."""
GPU_LAUNCH: Final = (0.0052, 0.50)
"""Seconds a block and micro-batch while the host launches the kernels of seven adapters with checkpointing (`launches`
in terms.py), and spread. Qwen's README (A100, LoRA, 256 tokens):
1.0, 1.2 and 1.6 s for 8 micro-batches are 5.2, 4.7 and 5.0 ms a block; a published table (A100, Alpaca, micro-batch 1):
4.1, 4.7, 4.4 and 4.8; eight T4 runs 7.1; two logs of Llama-3.2-1B 9.6 (reference, section 4)."""
GPU_EFFICIENCY: Final = (0.65, 0.22)
"""Share of the dense tensor throughput that large matrix products reach, and spread. Qwen's README: 117, 157 and 171 of
an A100's 312 TFLOP/s, 0.38 to 0.55 with everything else that runs meanwhile; fms-acceleration's A100 rows of
Mistral-7B, 4 x 4096: 0.48."""
GPU_EFFICIENCIES: Final = {"T4": (0.22, 0.3), "H100": (0.42, 0.3), "H200": (0.42, 0.3), "B200": (0.35, 0.4)}
"""The same where it differs. T4: 12.9 of 65 TFLOP/s (reference, section 4, eight runs; its power limit throttles it).
H100 and later: products that fill an A100 leave these half idle; the typical share of published runs, 0.35 to 0.5,
nothing was measured here."""
GPU_TRAFFIC: Final = (0.55, 0.5)
"""Share of the memory's bandwidth that element by element kernels reach of what `terms.py` counts, and spread: what
separates 1.8B (117 TFLOP/s) from 14B (171) in Qwen's README."""
GPU_WEIGHTS: Final = (0.6, 0.5)
"""The same for reading weights, and for turning 4-bit ones back into 16 bits. A published table: 79 ms more for Llama 2
7B and 191 ms for 13B in NF4 (A100-40GB, 1,555 GB/s)."""
NF4_SIGMA: Final = 0.4
"""Its spread where weights are turned back from 4 bits: bitsandbytes in a published table 6 to 8 ps a parameter and
pass, GPTQ's kernels in Qwen's README 12."""
GPU_OVERLAP: Final = 3.0
"""Power of the smooth maximum of launching and computing: Qwen's README shows a flat floor up to 512 tokens (1.8B) and
proportional time from 2,048 on; a plain sum predicts a held-out model worse (reference, section 4: 30 against 19 %)."""
FLOAT16_TFLOPS: Final = {"T4": 65.0, "V100-32GB": 125.0, "V100-16GB": 125.0}
"""Dense float16 tensor throughput of GPUs without bfloat16: NVIDIA's data sheets."""
FLOAT32_SHARE: Final = (0.08, 0.5)
"""Throughput in float32 over that in bfloat16, and spread: 19.5 of 312 (A100), 67 of 989 (H100), 8.1 of 65 (T4), and
more on consumer cards, 82.6 of 165 (RTX 4090): data sheets."""

CPU_STEP: Final = (0.006, 0.9)
"""Seconds of an optimizer step on a CPU apart from its passes, and spread; own runs, `cpu_runs.json`."""
CPU_LAUNCH: Final = (0.0015, 0.8)
"""Seconds per block and micro-batch on a CPU whatever the tokens, and spread; own runs, `cpu_runs.json`."""
CPU_THREAD_FLOPS: Final = {"float32": (7.0e10, 0.7), "bfloat16": (1.2e11, 1.0), "float16": (3.0e10, 1.2)}
"""Operations a second and thread, and spread: one core at 2.6 GHz with AVX-512 reaches some 6e10 in float32 (own runs);
AVX2 alone gives half, matrix units for bfloat16 several times more."""
CPU_THREADS_POWER: Final = 0.85
"""Throughput grows with the threads to this power: shared caches and bandwidth; typical, nothing was measured here."""
CPU_BANDWIDTH: Final = (1.1e10, 0.7)
"""Bytes a second and thread, and spread: what one core of a server draws from memory."""

MODEL_SIGMA: Final = {"gpu": 0.14, "cpu": 0.08}
"""How far a model's time differs from what the common rates of its stack and machine say: leaving a model out gives
17.5 % on a T4, 8 to 22 % on an A100, 5 to 13 % on a CPU (reference, section 4)."""
RATE_SIGMA: Final = {"gpu": 0.12, "cpu": 0.10}
"""The same of its single rates: small matrices are slower an operation than large ones."""
VARIANT_SIGMA: Final = 0.12
"""How far gradient checkpointing, other adapters or another kernel of attention shift the time beyond their operations:
a trainer's README, 1.27 measured for 4/3 by operations; published ranks 4 and 64 of one model lie 43 % apart."""
SETTING_SIGMA: Final = {"gpu": 0.06, "cpu": 0.03}
"""What is peculiar to one batch and length: which kernels a library picks for these sizes."""
RUN_SIGMA: Final = {"gpu": 0.05, "cpu": 0.10}
"""How far a run's median step scatters about its rates, where the device is busy. GPU: published rows of one README lie
within 5 %. CPU: own runs by the clock, 3 % on an idle machine, 20 % and more on a shared one."""
CPU_TIME_SIGMA: Final = 0.035
"""The same in CPU time, which others change little: own runs (`cpu_runs.json`), 3 to 4 %."""
REPEAT_SIGMA: Final = {"gpu": 0.08, "cpu": 0.08}
"""How far the same run differs from itself on another day or another node of the same kind: 10 %, and where the host is
busy 20 % (reference, section 5)."""
SLOTS_SIGMA: Final = 0.06
"""How far the gain from training in slots differs from that of a probe, which measures both within a minute: two
medians of an idle CPU, 3 % each, and other batches. Not measured by itself."""
SIDE_BY_SIDE_SIGMA: Final = 0.15
"""How far the gain from training side by side may differ from what the rates of a GPU say, where nothing was measured
on it. A choice: no GPU has trained runs side by side."""
LAUNCH_RUN_SIGMA: Final = 0.15
"""The same where the host is: logs of one 1B setting lie between 0.15 and 0.23 s a step (reference, section 4E), which
are the ends of 90 % where it is 0.13."""
PRIOR_WEIGHT: Final = {"gpu": 8, "cpu": 4}
"""How many residuals these spreads are worth: some ten models on three kinds of GPU,
and three machines with CPUs."""
COLD_LAUNCH_SIGMA: Final = 0.25
"""Spread of `GPU_LAUNCH` where nothing was measured on the machine: the nine figures there lie 0.27 apart, with
`LAUNCH_RUN_SIGMA` in it. Runs on one machine may still move it by the wider spread."""
COLD_WEIGHT: Final = 30
"""The same where nothing was measured: published rows of some thirty pairs of model and stack agree that well."""
COLD_SIGMA: Final = {"gpu": 0.10, "cpu": 0.35}
"""What is added where nothing was measured on the machine with that trainer: drivers, hosts, versions. With the rates'
own spread it makes a factor of 1.7 on a GPU, which held 93 % of the published rows (`benchmarks/held_out.py`); with
0.20 and the same rates 1.9 held all rows of the half that it was chosen by."""

STARTUP: Final = ((5.0, 0.7), (3.0e-9, 1.2))
"""Seconds from the process's start to the first step whatever the model, and seconds a byte of its weights, each with
its spread. Own runs (`cpu_runs.json`): 4 to 6 s, nearly all of it imports; weights come from a cache at several
GB/s, and from a shared file system at some 0.1."""
NETWORK_IMPORTS: Final = (73.0, 0.40)
"""Seconds of imports from a network file system, in the place of the above, with their spread: 30 to 180 s for torch on
a cold one, as users of clusters report; not measured by us."""
TOKENISING: Final = ((0.2, 1.0), (1.0e-6, 0.8))
"""The same for reading and tokenising, a token: 34 microseconds an example of 35 tokens (measured with
a vocabulary of 128k, one thread)."""
SAVING: Final = ((0.03, 1.0), (4.0e-9, 1.3))
"""The same for saving a checkpoint, a byte. Own runs: 0.02 to 0.2 s for 1 to 8 MB; a public log, 33 s for the 2.5 GB
of a merged 1B model on a cluster's scratch, which is 13 ns a byte."""
VALIDATION_SIGMA: Final = 0.35
"""Spread of a validation's time about what its operations say: it has other batches than the training."""
FORWARD_LAUNCHES: Final = {"gpu": 0.25, "cpu": 0.25}
"""Time to launch a block in a forward pass without gradients, over that of a whole training pass."""
ANSWERING_SIGMA: Final = 0.35
"""Spread of the time of generating answers about what its amounts say: other kernels than a training's."""
EVALUATION_OVERHEAD: Final = ((1.5, 0.5), (0.006, 0.6))
"""Seconds of an evaluation apart from the model: for each checkpoint, and for each answer, which is scored and logged;
each with its spread."""
EVALUATION_STARTUP: Final = ((7.0, 0.5), (3.0e-9, 1.2))
"""Seconds from the start of an evaluation's process to its first prompt, and seconds per byte of the weights."""
PART_NOISE: Final = 0.15
"""How far start-up, saving and the like differ from day to day: caches, other users of the disk."""
PART_WEIGHT: Final = 4
"""How many residuals these spreads are worth."""
SLURM_MARGIN: Final = 0.10
"""Added to the upper end of the interval in a SLURM limit: a choice, not a measurement. Being killed costs the whole
job, a longer limit some minutes in the queue."""

DATA_PARALLEL_FACTOR = 1.5
"""Factor by which a step of several processes may differ from the part of one. A choice: nothing was measured."""
