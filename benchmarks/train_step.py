"""A training step of ours against one of TRL's SFTTrainer, well set and with its defaults, in one process.

    OMP_NUM_THREADS=1 python benchmarks/train_step.py [--model FOLDER] [--cases own words] [--batch 8] [--steps 1]

Cases, by their examples: `own`, random tokens of 24 to 96 with nothing in common, as most data are; `words` of the
capitalization task, whose chat prompt all share. Peers: `padded` and `padding-free`, without gradient checkpointing,
each with the fastest of its attention implementations and dtypes, tried here first; last, `defaults`. flash-attn needs
a GPU, and flex_attention has no backward pass on a CPU. TRL computes the logits of labels alone by default. torchtune
and LLaMA-Factory have environments and loops of their own: benchmarks/trainers.py times them, on the words.

TRL trains by its own `train()`; at the end of each of its steps ours is done, so both see the same machine. The ratio
is of processor seconds, in three repeats of `--steps` steps. First both losses are compared in float32, with the same
adapter: they must agree within 1e-3, over the same number of label tokens. Unequal work exits with 1. Without a
processor that is fast in bfloat16 the ratio is another, and it says so.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from touchline.data.worker import prepare_worker

os.environ.setdefault("TQDM_DISABLE", "1")
# Both measured sides get what the trainer's own process sets.
prepare_worker()
warnings.filterwarnings("ignore")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402 (the environment above is read when it is loaded)
from datasets import Dataset  # noqa: E402
from peft import LoraConfig as PeftLoraConfig  # noqa: E402
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict  # noqa: E402
from tests.train.tiny_run import make_config  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer  # noqa: E402

from touchline.backends.peft.layout import arrange  # noqa: E402
from touchline.core.catalog import RenderedExample  # noqa: E402
from touchline.data.create import load_words  # noqa: E402
from touchline.data.machine import choose_base_dtype  # noqa: E402
from touchline.data.user_config import load_settings  # noqa: E402
from touchline.experiment.training import LoraConfig, TrainConfig  # noqa: E402
from touchline.train.inputs import Inputs, load_inputs  # noqa: E402
from touchline.train.setup import Session, build_session  # noqa: E402

TOLERANCE_NATS = 1e-3
LEARNING_RATE = 1e-4
REPEATS = 3
TRIED_STEPS = 1
ATTENTIONS = ("sdpa", "eager")
DTYPES = {"float32": (torch.float32, False), "bfloat16": (torch.bfloat16, False), "autocast": (torch.bfloat16, True)}
"""Type of the frozen weights, and whether TRL computes under autocast, by name."""
TUNED = ("padded", "padding-free")
VOCABULARY = 1000
"""Token ids below this are drawn."""


def our_inputs(model: Path, folder: Path, batch: int, rank: int, base_dtype: str, case: str) -> Inputs:
    """One global batch of a case."""
    words = [word for word in load_words() if len(word) == 8][: batch + 2]
    rows = [{"input": word, "output": word.capitalize()} for word in words]
    data = folder / "words.json"
    data.write_text(
        json.dumps({"train": rows[:batch], "validation": rows[batch : batch + 1], "test": rows[batch + 1 :]})
    )
    train = TrainConfig(
        global_batch_size=batch,
        micro_batch_size=batch,
        learning_rate=LEARNING_RATE,
        max_seq_len=512,
        packed=False,
        lora=LoraConfig(rank=rank),
    )
    config = make_config(model, data, train)
    inputs = load_inputs(replace(config, train=replace(train, base_dtype=base_dtype)), folder)  # type: ignore[arg-type]
    return inputs if case == "words" else replace(inputs, train=tuple(invented(batch)))


def invented(batch: int) -> list[RenderedExample]:
    """Examples of random tokens with nothing in common."""
    generator = random.Random("own")  # noqa: S311 (made-up tokens)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(generator.randrange(1, VOCABULARY) for _ in range(count))

    lengths = [24 + 72 * number // max(batch - 1, 1) for number in range(batch)]
    return [RenderedExample(prompt_ids=ids(3 * length // 4), answer_ids=ids(length // 4)) for length in lengths]


def our_step(session: Session) -> float:
    """One optimizer step as train/loop.py makes it; gives the loss."""
    rows = arrange(session.inputs.train, session.layout)
    loss = session.target_loss(rows).sum() / len(rows.labels)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(list(session.parameters.values()), 1.0)
    session.optimizer.step()
    session.optimizer.zero_grad(set_to_none=True)
    return loss.item()


@dataclass(frozen=True)
class Peer:
    """How TRL is set."""

    kind: str
    """`defaults`, `padded` or `padding-free`."""
    attention: str = "sdpa"
    dtype: str = "float32"

    def __str__(self) -> str:
        return self.kind if self.kind == "defaults" else f"{self.kind} ({self.attention}, {self.dtype})"


def their_trainer(model: Path, inputs: Inputs, folder: Path, steps: int, peer: Peer) -> SFTTrainer:
    """SFTTrainer as the peer sets it; the examples come tokenised, so that both sides have the same tokens."""
    dtype, autocast = DTYPES[peer.dtype]
    tuned: dict[str, object] = {}
    if peer.kind in TUNED:
        tuned = {"gradient_checkpointing": False, "bf16": autocast}
    if peer.kind == "padding-free":
        # Rows are cut at max_length only where they are padded; these examples are shorter.
        tuned |= {"padding_free": True, "max_length": None}
    lora = inputs.config.train.lora
    count = len(inputs.train)
    rows = [
        {
            "input_ids": list(item.prompt_ids + item.answer_ids),
            "labels": [-100] * len(item.prompt_ids) + list(item.answer_ids),
        }
        for item in inputs.train
    ]
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation=peer.attention),
        args=SFTConfig(
            output_dir=str(folder / "trl"),
            use_cpu=True,
            max_steps=steps,
            per_device_train_batch_size=count,
            learning_rate=LEARNING_RATE,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            **tuned,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=PeftLoraConfig(
            task_type="CAUSAL_LM", r=lora.rank, lora_alpha=2 * lora.rank, target_modules=list(lora.target_modules)
        ),
    )


def equal_adapters(ours: PeftModel, theirs: PeftModel) -> None:
    """Put the same random adapter on both; a fresh one is zero and would compare the bases alone."""
    generator = torch.Generator().manual_seed(3)
    state = {
        name: torch.randn(value.shape, generator=generator) * 0.02
        for name, value in get_peft_model_state_dict(ours, save_embedding_layers=False).items()
    }
    set_peft_model_state_dict(ours, state)
    set_peft_model_state_dict(theirs, state)


@dataclass
class Interleaved(TrainerCallback):  # type: ignore[misc]
    """Times TRL's steps in processor seconds, and does and times ours after each, if there is a session."""

    session: Session | None
    theirs_s: list[float] = field(default_factory=list)
    ours_s: list[float] = field(default_factory=list)
    began: float = 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: object
    ) -> None:
        self.began = time.process_time()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: object
    ) -> None:
        self.theirs_s.append(time.process_time() - self.began)
        if self.session is not None:
            began = time.process_time()
            our_step(self.session)
            self.ours_s.append(time.process_time() - began)


def compare_losses(model: Path, folder: Path, case: str, peer: Peer, options: argparse.Namespace) -> bool:
    """Both losses in float32, printed; whether the work is equal."""
    inputs = our_inputs(model, folder, options.batch, options.rank, "float32", case)
    session = build_session(inputs, None)
    trainer = their_trainer(model, inputs, folder, 1, replace(peer, dtype="float32"))
    equal_adapters(session.model, trainer.model)
    collated = trainer.data_collator([trainer.train_dataset[i] for i in range(options.batch)])
    rows = arrange(inputs.train, session.layout)
    labels = collated["labels"]
    their_targets = int((labels != -100).sum())
    trainer.model.eval()
    with torch.no_grad():
        ours = float(session.target_loss(rows).mean())
        theirs = float(trainer.compute_loss(trainer.model, dict(collated)))
    real = sum(len(item.prompt_ids) + len(item.answer_ids) for item in inputs.train)
    print(f"  batch             {options.batch} examples, {real} tokens, LoRA rank {options.rank} on all linear layers")
    print(f"  computed tokens   ours {rows.computed_tokens} ({session.layout.name}), TRL {labels.numel()}")
    print(f"  label tokens      ours {len(rows.labels)}, TRL {their_targets}")
    print(f"  loss in float32   ours {ours:.6f}, TRL {theirs:.6f}, difference {abs(ours - theirs):.1e}")
    return len(rows.labels) == their_targets and abs(ours - theirs) <= TOLERANCE_NATS


def best(model: Path, folder: Path, case: str, kind: str, options: argparse.Namespace) -> Peer:
    """Try each dtype, then each attention with the fastest one; print the processor seconds. Return the fastest."""
    inputs = our_inputs(model, folder, options.batch, options.rank, "auto", case)
    found: dict[Peer, float] = {}

    def fastest(peers: Iterable[Peer]) -> Peer:
        for peer in peers:
            trainer = their_trainer(model, inputs, folder, TRIED_STEPS + 1, peer)
            watch = Interleaved(None)
            trainer.add_callback(watch)
            trainer.train()
            found[peer] = min(watch.theirs_s[1:])
            del trainer
            gc.collect()
        return min(found, key=lambda peer: found[peer])

    first = fastest(Peer(kind, ATTENTIONS[0], dtype) for dtype in DTYPES)
    chosen = fastest(Peer(kind, attention, first.dtype) for attention in ATTENTIONS[1:])
    tried = ", ".join(f"{peer.attention} {peer.dtype} {seconds:.2f}" for peer, seconds in found.items())
    print(f"{case}, TRL {kind}, tried, CPU s per step: {tried}", flush=True)
    return chosen


def time_steps(model: Path, folder: Path, case: str, peer: Peer, options: argparse.Namespace) -> str:
    """Time both sides' steps, interleaved. Return the line of the summary."""
    inputs = our_inputs(model, folder, options.batch, options.rank, "auto", case)
    session = build_session(inputs, None)
    trainer = their_trainer(model, inputs, folder, options.steps * REPEATS + 1, peer)
    watch = Interleaved(session)
    trainer.add_callback(watch)
    trainer.train()
    # The first step of each pays for allocations.
    parts = [slice(1 + number * options.steps, 1 + (number + 1) * options.steps) for number in range(REPEATS)]
    theirs, ours = ([sum(taken[part]) / options.steps for part in parts] for taken in (watch.theirs_s, watch.ours_s))
    ratios = [one / other for one, other in zip(theirs, ours, strict=True)]
    print(f"  TRL, CPU s        {', '.join(f'{each:.3f}' for each in theirs)} per step")
    print(f"  ours, CPU s       {', '.join(f'{each:.3f}' for each in ours)} per step", flush=True)
    return f"{case:6}TRL {peer!s:36}{statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, then time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = load_settings().models_dir / "SmolLM2-135M-Instruct"
    parser.add_argument("--model", type=Path, default=default)
    parser.add_argument("--cases", nargs="+", choices=("own", "words"), default=["own", "words"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--rank", type=int, default=8)
    options = parser.parse_args(arguments)
    model = options.model.resolve()
    choice = choose_base_dtype("auto", cuda_capability=None)
    if torch.cuda.is_available():
        print("this comparison is for processors; hide the GPUs: CUDA_VISIBLE_DEVICES=")
        return 1
    if choice.dtype != "bfloat16":
        print(f"note: {choice.reason}; both sides lose the speed of bfloat16, and the ratio is another")
    print(f"threads {torch.get_num_threads()}, load {os.getloadavg()[0]:.2f}, ours in {choice.dtype} ({choice.reason})")
    table = []
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        compared = [(case, kind) for case in options.cases for kind in TUNED]
        for case, kind in [*compared, (options.cases[-1], "defaults")]:
            peer = best(model, folder, case, kind, options) if kind in TUNED else Peer(kind)
            print(f"{case}, TRL {peer}")
            if not compare_losses(model, folder, case, peer, options):
                print(f"unequal work: the losses must agree within {TOLERANCE_NATS} over the same label tokens")
                return 1
            gc.collect()
            table.append(time_steps(model, folder, case, peer, options))
            gc.collect()
    print(f"load at the end {os.getloadavg()[0]:.2f}; {time.process_time():.0f} CPU s in all")
    print("how many times as fast ours is: median of three repeats (from, to)")
    print("\n".join(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
