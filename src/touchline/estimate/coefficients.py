"""Measured or published constants of the estimates, each with its source: memory first, then rates of the step time.

Rates are priors for one device, as medians and standard deviations of logarithms. Measurements on a machine replace
them there. Published tables and READMEs of trainers are named in `backends/*/__init__.py`.
"""

from __future__ import annotations

from typing import Final

LOSS_BYTES: Final = {"full": 12.0, "chunked": 6.5, "fused": 0.0}
"""Bytes per token and vocabulary entry by kind of loss. Simulated on torch 2.13 (the dispatcher's live storages):
float32 log-softmax, its gradient and one more float32 copy make 12; in eight chunks whose 16-bit logits stay, 6.5. A
kernel that never holds the logits: none that grow with the tokens (Liger's documentation; a Llama-3-8B run with it in
foundation-model-stack/fms-acceleration, scripts/benchmarks/refs/a100_80gb_liger.csv, agrees)."""

UPCAST_KEPT_BYTES: Final = 2.0
"""What logits that stay until the backward pass take more where a QLoRA head gives them in float32: 16 where 16-bit
ones take 14, on a T4 (Anassbzdd/fitcheck, data/measurements/t4-sweep-2026-09-15.json, 16 rows). Where they do not stay
it makes no difference: 12.0 on an A100 (fms-acceleration, refs/a100_80gb_granite.csv), and simulated."""

UPCAST_MOST_BYTES: Final = 16.0
"""The most where they are given in float32: logits that stay, log-probabilities and two gradients of 4 bytes each."""

NF4_BYTES: Final = 0.5
"""Bytes per element of a 4-bit base (Dettmers et al. 2023, QLoRA, section 3)."""
NF4_SCALE_BYTES: Final = 4 / 64
"""One float32 scale a block of 64 (same source). The T4 rows show the same: 78.1 MiB of scales to 624.75 MiB."""
NF4_DOUBLE_SCALE_BYTES: Final = 1 / 64 + 4 / (64 * 256)
"""One 8-bit scale a block of 64, and a float32 one for 256 of those (same source, double quantization)."""

OPTIMIZER_STATES: Final = {"lion": 1.0, "muon": 1.0, "sgd": 0.0, "adam": 2.0}
"""Part of an optimizer's name -> elements of state per parameter, of the parameter's own type: torch.optim.AdamW keeps
two moments, Lion and torch.optim.Muon one."""
ADAFACTOR_BYTES: Final = 0.02
"""Bytes of Adafactor's state per parameter of a whole model: float32 sums of rows and columns. An adapter's are
counted."""
STATE_BYTES_8BIT: Final = 1 + 4 / 256
"""Bytes per parameter of an 8-bit state: itself, and a float32 maximum for each block of 256 (bitsandbytes 0.50,
optimizer.py)."""
SMALLEST_8BIT: Final = 4096
"""Elements from which a tensor's state is in 8 bits; a smaller one's is in float32 (the same source)."""
INT8_SCALE_BYTES: Final = 4
"""Bytes per output of an 8-bit matrix: its float32 maximum (bitsandbytes 0.50, Int8Params)."""

FOREACH_COPIES: Final = {"adamw_torch": 1.0, "adamw_foreach": 1.0}
"""Optimizers that make copies of all trained parameters in their step: torch's multi-tensor AdamW makes one, the root
of the second moment. Full fine-tuning in fms-acceleration's refs peaks at 10.0 bytes a parameter whatever the batch."""

EAGER_BACKWARD_BYTES: Final = {2: 14.0, 4: 16.0}
"""Bytes per head, token and token of width at once while eager attention runs backward, by the stream's element size.
Fitted to five rows each of three models in the T4 archive (fitcheck, see above), half of it."""

EAGER_KEPT_BYTES: Final = {2: 6.0, 4: 4.0}
"""The same, kept by the forward pass: the float32 probabilities, and their 16-bit copy. Simulated on torch 2.13."""

VARIANT_BYTES: Final = {"lora": 0, "rslora": 0, "dora": 6}
"""Kind of adapter -> bytes per token and output of an adapted layer that it keeps more than LoRA. DoRA keeps the
layer's and the adapter's result (PEFT 0.21, tuners/lora/dora.py). Not fitted: of huggingface/peft,
method_comparison/MetaMathQA, all rows stay unseen."""
VARIANT_SPREAD: Final = 4.0
"""Bytes per token and output that such an adapter may keep more or less, 5% beyond each: one float32 copy, a choice."""

MASK_BYTES: Final = 3
"""Bytes per row, token and token of width of the mask of a padded batch: a boolean one, and its 16-bit copy for the
kernel (transformers 5.23, masking_utils.py; torch, sdp_utils)."""

WORKSPACE_BYTES: Final = 18 * 2**20
"""cuBLAS's workspace, which counts as allocated: what the simulation lacks on the T4's fused rows, the same in each."""

FRAGMENTATION: Final = (1.07, 1.01, 1.11)
"""Reserved over allocated memory apart from logits: typical; 5 % lie below; 5 % lie above. Fitted to half of the
published rows (`benchmarks/held_out.py`): the median and the ends of fms-acceleration's, and of the T4 archive's eager
ones."""
LOGITS_FRAGMENTATION: Final = (0.40, 0.0, 0.75)
"""What is added to these, times the logits' share of the peak: blocks of gigabytes that fit no hole. The same fit, with
Qwen's README: with all logits held, 40 to 70 % of the peak, 1.03 to 1.63 on the A100, rows of one length."""

CONTEXT_GIB: Final = (0.14, 0.45, 0.80)
"""What the driver holds for a process apart from the allocator's memory, where the GPU is not known: lowest, typical,
highest. 0.14 on the T4 archive; some 0.5 on A100 and H100."""

RESIDENT_ERROR: Final = 0.008
"""Standard deviation of the logarithm of what lies there all the time. The T4 archive's after-load figures are within
1 % of the formula's, one within 2 %; 2.41 and 2.35 GiB after init in public logs (1B, rank 64, 16) are met to the last
digit."""
FUSED_ERROR: Final = 0.03
"""The same for activations with fused attention, of a stack whose code was read or simulated: estimation over the T4's
16 fused rows 0.4 % mean; A100 rows with known settings up to 4 %."""
EAGER_ERROR: Final = 0.07
"""The same with eager attention: simulation against the T4's eager rows 3.3 % mean, 10.5 % at most; closed
form 2.3 % mean, 10.6 % at most."""
COMPILED_ERROR: Final = 0.20
"""The same under torch.compile: a trainer's README, four rows of a 3B (seen, so no test of it): 42.9 GiB without the
logits where the eager formula says 57.0."""
EXTRAPOLATED_ERROR: Final = 0.12
"""The same for shapes that the formula was not read off: published rows of Falcon and Phi."""
STACK_ERROR: Final = 0.10
"""The same where a stack's own code was neither simulated nor measured."""

SAME_RUN_ERROR: Final = 0.01
"""The same between runs of the same settings: the T4 archive's repeats are identical to the byte in allocated memory
and within 1 % in reserved; 1 % is the reference's."""
FACTOR_PRIOR: Final = 0.25
"""How far a model's layers or logits may be from the closed form's before a run's allocated memory is known: a compiled
model's are a quarter below."""
DRIFT: Final = 0.01
"""Standard deviation of what the formula misses at one size of the micro-batch, as a share of the peak, apart from what
is not known of the allocator's cache. Both fade by a factor of 2.7 where the tokens differ 2.7 times. This and the next
two were chosen on published rows, each predicted from one other row of its model; for reserved memory half of both
makes narrower intervals that hold as often (`benchmarks/one_log.py --held-out`, without one table or another)."""
NOISE: Final = 0.003
"""The same of what one run has of its own, in allocated memory: repeats of one setting are equal."""
NOISE_OF_PROCESS: Final = 0.02
"""The same in reserved memory or a process: repeats of one setting differ by less than 1 %."""
PROCESS_NOISE: Final = 0.07
"""The same between runs of touchline's own trainer on a CPU: runs of one setting took 1.08 to 1.32 GiB, by what else
the machine did, which is 7 %; from 127 to 214 tokens the formula was 9 % short.
"""
SAME_MODEL_ERROR: Final = 0.012
"""Standard deviation where resident memory or slope are fitted to runs of the same model; two of it are 2 %. Published
tables: micro-batches 1 and 2 give 4 within 0.5 %."""
SAME_STACK_ERROR: Final = 0.03
"""The same where runs of other models with the same trainer give a common factor (reference: 3 %)."""

CHECKPOINT_TIME: Final = 1.30
"""Time of a step with gradient checkpointing over that without: a trainer's README, 3B: 9174 to 7210 tokens per second,
1.27; a forward pass more is 4/3 by FLOPs."""
QLORA_TIME: Final = 1.35
"""Time with a 4-bit base over 16 bits: a published table, Llama 2 7B 3.68 to 2.36 min, phi-1.5 1.77 to 1.62; Qwen's
README 7B at 2048 tokens 7.0 to 5.2 s."""
FUSED_LOSS_TIME: Final = 1.0
"""Time with a fused loss: fms-acceleration's Llama-3-8B rows, 3843 to 3829 tokens per second."""
CHUNKED_LOSS_TIME: Final = 1.0
"""Time with a chunked loss: a trainer's README, 9174 to 8998 tokens per second."""
HALF_BATCH_TIME: Final = 1.05
"""Time of a step of the same global batch in twice as many micro-batches: overhead a micro-batch, little where it is
large; Qwen's README, 7B: 2048 to 4096 tokens take 1.94 times as long."""
ADAPTER_DTYPE_TIME: Final = 1.0
"""Time with 16-bit adapters: a saving of casts that no source puts in figures."""

PROCESS_GIB: Final = (0.34, 0.45, 0.75)
"""Resident memory of our trainer's process on a CPU apart from model and data: lowest, typical, highest. Measured: a
model of a million parameters trains in 0.41 to 0.48 GiB next to its tensors, imports and three steps of one take 0.41
(torch 2.13, CPU build). Another build of torch, more threads and larger datasets take more; how much was not
measured."""
LOADED_AGAIN: Final = (0.2, 1.2, 2.6)
"""How often the base's weights lie there once more, as mapped pages of its file and as what oneDNN reorders: lowest,
typical, highest. Sixteen runs of SmolLM2-135M in bfloat16 at rank 4 and 64 on one CPU: 0.9 to 1.9; four steps of
it on another, in one thread: 0.3 to 1.7."""
CPU_SCRATCH: Final = (1.0, 1.07, 1.50)
"""Resident over live bytes of tensors on a CPU: lowest, typical, highest. Seven runs of SmolLM2-135M in float32:
1.03 to 1.08, and 1.28 with checkpointing; oneDNN's and malloc's scratch (reference, section 3)."""

ANSWERING_SCRATCH: Final = (1.1, 2.0)
"""Reserved over live bytes of a batch of answers on a GPU: typical, highest. Keys and values are copied layer by layer
for each token, and blocks of growing size leave holes. Not measured on a GPU, so the upper end is twice the tensors."""

METRICS_ROW_BYTES: Final = 826
"""One step's row in metrics.jsonl: measured on twelve of our own runs, 812 to 838 bytes on average."""
CHECKPOINT_FILES_BYTES: Final = 2_600
"""The small files of an exported folder that are not copied from the base, adapter_config.json and touchline.json:
measured on our own runs, 2,522 to 2,595."""
RUN_FILES_BYTES: Final = 20_500
"""The small files of a run's folder, scripts, configurations, status, and the rows of metrics.jsonl that are no step:
measured on our own runs, 19,900 to 22,400."""
ANSWER_BYTES: Final = 2_350
"""An answer in the .eval log and in the scores next to it: measured on eleven evaluations of 300 short words, 2,347 to
2,459; long prompts and answers take more."""
EVALUATION_BYTES: Final = 3_500
"""What an evaluation writes apart from its answers: what evaluations of 16 words take more than 16 answers."""
RANDOM_STATE_BYTES: Final = 6_000
"""Size of torch's CPU generator, 5,056 bytes, and a header."""

HOST_PROCESS_BYTES: Final = 3 * (1 << 30)
"""Host memory of a process on a GPU apart from the weights: libraries, the driver's context, tokenised rows. A choice:
the imports alone take some 0.7 GiB on a CPU here, and contexts were not measured on a GPU by us."""
HOST_WORKER_BYTES: Final = 1 << 29
"""The same of a data worker, a fork that shares most of it. A choice, not measured."""
HOST_SPREAD: Final = 1.25
"""Factor by which the need may differ. A choice: what is not used costs nothing but a share of the node."""


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
