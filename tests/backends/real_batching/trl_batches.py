"""What TRL and accelerate themselves do with examples of given lengths; cases come and answers go as JSON.

TRL's packer inside `datasets.map`, its collator, and the loader that accelerate makes for each device.
"""

import json
import sys
from importlib.metadata import version

from accelerate.data_loader import prepare_data_loader
from accelerate.state import PartialState
from datasets import Dataset, disable_progress_bars
from torch.utils.data import DataLoader, RandomSampler
from trl import pack_dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling


def answer(case):
    limit, devices = case["max_seq_len"], case["data_parallel_size"]
    ids = [[index + 1] * length for index, length in enumerate(case["lengths"])]
    dataset, members = Dataset.from_dict({"input_ids": [row if case["packed"] else row[:limit] for row in ids]}), None
    if case["packed"]:
        dataset = pack_dataset(dataset, limit, "bfd", {"num_proc": case["num_proc"]})
        members = [list(dict.fromkeys(token - 1 for token in row)) for row in dataset["input_ids"]]
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=case["packed"])
    loaders = [
        prepare_data_loader(
            DataLoader(
                dataset, batch_size=case["micro_batch_size"], sampler=RandomSampler(dataset), collate_fn=collate
            ),
            num_processes=devices,
            process_index=rank,
            put_on_device=False,
            use_seedable_sampler=True,
            data_seed=case["seed"],
        )
        for rank in range(devices)
    ]
    epochs = []
    for epoch in range(case["epochs"]):
        by_device = []
        for loader in loaders:
            loader.set_epoch(epoch)
            by_device.append([batch["input_ids"].numel() for batch in loader])
        epochs.append([tokens for turn in zip(*by_device, strict=True) for tokens in turn])
    return {
        "rows": len(dataset),
        "members": members,
        "first_epoch": epochs[0],
        "largest": max(tokens for epoch in epochs for tokens in epoch),
        "batches_each": len(loaders[0]),
    }


def main():
    disable_progress_bars()
    PartialState(cpu=True)
    names = ("trl", "accelerate", "datasets", "transformers", "torch")
    return {"versions": {name: version(name) for name in names}, "answers": [answer(c) for c in json.load(sys.stdin)]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()))
