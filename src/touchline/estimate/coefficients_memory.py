"""Measured or published constants of the memory estimate, each with its source."""

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

TORCH_FILE_BYTES: Final = 271
"""What torch.save adds a tensor with a name of some 70 letters: measured on torch 2.13, 270.0 to 271.9 (adapters of 192
and 336 tensors, rank 4 and 64)."""
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
