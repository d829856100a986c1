"""What torchtune itself does with examples of given lengths. Run by a Python that has torchtune; cases come and answers
go as JSON.

It takes torchtune's own classes in the order in which recipes/lora_finetune_distributed.py takes them.
"""

import json
import sys
from functools import partial
from importlib.metadata import version

import torch
from torch.utils.data import Dataset
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler
from torchtune.data import padded_collate_packed, padded_collate_sft, truncate
from torchtune.datasets import PackedDataset


class Examples(Dataset):
    """Example i has `lengths[i]` tokens, all of them i + 1, so that it is known again in a pack."""

    def __init__(self, lengths, limit):
        self.samples = [truncate([index + 1] * length, limit) for index, length in enumerate(lengths)]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return {"tokens": self.samples[index], "labels": self.samples[index]}


def answer(case):
    limit, devices, micro = case["max_seq_len"], case["data_parallel_size"], case["micro_batch_size"]
    dataset = Examples(case["lengths"], limit)
    members = None
    if case["packed"]:
        dataset = PackedDataset(dataset, max_seq_len=limit)
        members = [[int(t) - 1 for t in torch.unique_consecutive(pack["tokens"]) if int(t)] for pack in dataset]
    collate = padded_collate_packed if case["packed"] else partial(padded_collate_sft, padding_idx=0, ignore_idx=-100)
    micro_batches, batches_each = [], 0
    for epoch in range(case["epochs"]):
        by_device = []
        for rank in range(devices):
            sampler = StatefulDistributedSampler(dataset, num_replicas=devices, rank=rank, shuffle=True, seed=0)
            loader = StatefulDataLoader(
                dataset=dataset, batch_size=micro, sampler=sampler, collate_fn=collate, drop_last=True
            )
            batches_each = len(loader)
            sampler.set_epoch(epoch)
            by_device.append([batch["tokens"].shape[0] * batch["tokens"].shape[1] for batch in loader])
        micro_batches.append([tokens for turn in zip(*by_device, strict=True) for tokens in turn])
    return {
        "rows": len(dataset),
        "members": members,
        "first_epoch": micro_batches[0],
        "largest": max((tokens for epoch in micro_batches for tokens in epoch), default=0),
        "steps": batches_each // case["gradient_accumulation_steps"] * case["epochs"],
    }


sys.stdout.write(
    json.dumps(
        {
            "versions": {name: version(name) for name in ("torchtune", "torchdata", "torch")},
            "answers": [answer(case) for case in json.load(sys.stdin)],
        }
    )
)
