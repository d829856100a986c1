"""A training step of ours against one of TRL's SFTTrainer with its defaults, on the same examples, in one process.

    python benchmarks/train_step.py [--model FOLDER] [--batch 16] [--steps 8] [--rank 8]

TRL trains by its own `train()`; at the end of each of its steps ours is done and timed, so both see the same machine.
First both losses are compared in float32, with the same adapter: they must agree within 1e-3, over the same number of
target tokens. Unequal work exits with 1. Without a processor that is fast in bfloat16 the ratio is another, and it says
so.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
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
from touchline.data.machine import choose_base_dtype  # noqa: E402
from touchline.data.user_config import load_settings  # noqa: E402
from touchline.data.words import load_words  # noqa: E402
from touchline.spec.experiment import LoraConfig, TrainConfig  # noqa: E402
from touchline.train.inputs import Inputs, load_inputs  # noqa: E402
from touchline.train.setup import Session, build_session  # noqa: E402

TOLERANCE_NATS = 1e-3
LEARNING_RATE = 1e-4


def our_inputs(model: Path, folder: Path, batch: int, rank: int, base_dtype: str) -> Inputs:
    """One global batch of eight-letter words."""
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
        max_seq_len=256,
        packed=False,
        lora=LoraConfig(rank=rank),
    )
    config = make_config(model, data, train)
    return load_inputs(replace(config, train=replace(train, base_dtype=base_dtype)), folder)  # type: ignore[arg-type]


def our_step(session: Session) -> float:
    """One optimizer step as train/loop.py makes it; gives the loss."""
    rows = arrange(session.inputs.train, session.layout)
    loss = session.target_loss(rows).sum() / len(rows.labels)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(list(session.parameters.values()), 1.0)
    session.optimizer.step()
    session.optimizer.zero_grad(set_to_none=True)
    return loss.item()


def their_trainer(model: Path, inputs: Inputs, folder: Path, steps: int) -> SFTTrainer:
    """SFTTrainer with its defaults; the examples come tokenised, so that both sides have the same tokens."""
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
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=SFTConfig(
            output_dir=str(folder / "trl"),
            use_cpu=True,
            max_steps=steps,
            per_device_train_batch_size=count,
            learning_rate=LEARNING_RATE,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
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
    """Times TRL's steps, and does and times ours after each."""

    session: Session
    theirs_s: list[float] = field(default_factory=list)
    ours_s: list[float] = field(default_factory=list)
    began: float = 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: object
    ) -> None:
        self.began = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: object
    ) -> None:
        self.theirs_s.append(time.perf_counter() - self.began)
        began = time.perf_counter()
        our_step(self.session)
        self.ours_s.append(time.perf_counter() - began)


def compare_losses(model: Path, folder: Path, batch: int, rank: int) -> bool:
    """Both losses in float32, printed; whether the work is equal."""
    inputs = our_inputs(model, folder, batch, rank, "float32")
    session = build_session(inputs, None)
    trainer = their_trainer(model, inputs, folder, 1)
    equal_adapters(session.model, trainer.model)
    collated = trainer.data_collator([trainer.train_dataset[i] for i in range(batch)])
    rows = arrange(inputs.train, session.layout)
    their_targets = int((collated["labels"] != -100).sum())
    trainer.model.eval()
    with torch.no_grad():
        ours = float(session.target_loss(rows).mean())
        theirs = float(trainer.compute_loss(trainer.model, dict(collated)))
    real = sum(len(item.prompt_ids) + len(item.answer_ids) for item in inputs.train)
    print(f"batch               {batch} examples, {real} tokens, LoRA rank {rank} on all linear layers")
    print(f"layout              {session.layout.name}: {rows.computed_tokens} tokens computed")
    print(f"target tokens       ours {len(rows.labels)}, TRL {their_targets}")
    print(f"loss in float32     ours {ours:.6f}, TRL {theirs:.6f}, difference {abs(ours - theirs):.1e}")
    return len(rows.labels) == their_targets and abs(ours - theirs) <= TOLERANCE_NATS


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, then time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = load_settings().models_dir / "SmolLM2-135M-Instruct"
    parser.add_argument("--model", type=Path, default=default)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rank", type=int, default=8)
    options = parser.parse_args(arguments)
    model = options.model.resolve()
    choice = choose_base_dtype("auto", cuda_capability=None)
    if torch.cuda.is_available():
        print("this comparison is for processors; hide the GPUs: CUDA_VISIBLE_DEVICES=")
        return 1
    if choice.dtype != "bfloat16":
        print(f"note: {choice.reason}; both sides lose the speed of bfloat16, and the ratio is another")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        if not compare_losses(model, folder, options.batch, options.rank):
            print(f"unequal work: the losses must agree within {TOLERANCE_NATS} over the same target tokens")
            return 1
        gc.collect()
        inputs = our_inputs(model, folder, options.batch, options.rank, "auto")
        session = build_session(inputs, None)
        trainer = their_trainer(model, inputs, folder, options.steps + 1)
        watch = Interleaved(session)
        trainer.add_callback(watch)
        trainer.train()
    # The first step of each pays for allocations.
    theirs, ours = watch.theirs_s[1:], watch.ours_s[1:]
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    median, least = statistics.median(theirs) / statistics.median(ours), min(theirs) / min(ours)
    print(f"threads             {threads}, load {load:.2f}, base {choice.dtype} ({choice.reason})")
    print(f"TRL, s per step     median {statistics.median(theirs):.3f}, min {min(theirs):.3f} of {len(theirs)}")
    print(f"ours, s per step    median {statistics.median(ours):.3f}, min {min(ours):.3f} of {len(ours)}")
    print(f"ratio               median {median:.2f}, of the minima {least:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
