"""What axolotl itself does with examples of given lengths. Run by a Python that has axolotl's source and numba,
accelerate and torch; cases come and answers go as JSON.

Its sampler goes into a DataLoader that accelerate prepares, as its trainer does; then its epochs are asked for.
"""

import json
import math
import sys
from importlib.metadata import version

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from axolotl.utils.collators import V2BatchSamplerDataCollatorForSeq2Seq
from axolotl.utils.samplers.multipack import MultipackBatchSampler
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.utils.data import DataLoader, RandomSampler
from transformers import PreTrainedTokenizerFast


def answer(case):
    lengths, micro, limit = case["lengths"], case["micro_batch_size"], case["max_seq_len"]
    torch.manual_seed(case["seed"])
    sampler = MultipackBatchSampler(
        RandomSampler(range(len(lengths))),
        lengths=lengths,
        batch_size=1,
        batch_max_len=micro * limit,
        group_size=100_000,
        bin_size=200,
        drop_last=True,
    )
    planned = len(sampler)
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True))
    accelerator.even_batches = False
    # A list of indices as the dataset: fetching a batch of bins gives the bins.
    loader = accelerator.prepare(DataLoader(Bins(), batch_sampler=sampler, collate_fn=lambda batch: batch))
    epochs = []
    for epoch in range(case["epochs"]):
        loader.set_epoch(epoch)
        epochs.append([list(map(int, batch[0])) for batch in loader.batch_sampler])
    rows = [[lengths[index] for index in pack] for pack in epochs[0]]
    collate = V2BatchSamplerDataCollatorForSeq2Seq(
        tokenizer(), padding=True, pad_to_multiple_of=64 * math.ceil(limit / 64)
    )
    widths = [collate([[example(length) for length in row]])["input_ids"].shape[1] for row in rows]
    return {
        "row_tokens": [sum(row) for row in rows],
        "first_epoch": widths,
        "planned": planned,
        "packs": [len(epoch) for epoch in epochs],
    }


def tokenizer():
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"<pad>": 0, "a": 1}, "a")), pad_token="<pad>")


def example(length):
    return {"input_ids": [1] * length, "labels": [1] * length, "attention_mask": [1] * length}


class Bins:
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return index


def main():
    names = ("axolotl", "accelerate", "torch", "numba")
    return {"versions": {name: version(name) for name in names}, "answers": [answer(c) for c in json.load(sys.stdin)]}


sys.stdout.write(json.dumps(main()))
