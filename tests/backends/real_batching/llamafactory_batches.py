"""What LLaMA-Factory itself does with prompts and answers of given lengths. Run by a Python that has llamafactory (and
datasets and transformers); cases come and answers go as JSON.

Its own processors run inside `datasets.map`, and its collator's base class pads, as in train/sft/workflow.py; only the
chat template is a stand-in, which gives as many tokens as the case says.
"""

import importlib.machinery
import importlib.util
import json
import os
import sys
import types
from importlib.metadata import version

os.environ["DISABLE_VERSION_CHECK"] = "1"
for name in ("torchaudio", "torchvision", "av"):
    # Its plugins for sound and pictures want these at import; nothing here has sound or pictures.
    if importlib.util.find_spec(name) is None:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = module

from datasets import Dataset  # noqa: E402
from llamafactory.data.processor.supervised import (  # noqa: E402
    PackedSupervisedDatasetProcessor,
    SupervisedDatasetProcessor,
)
from llamafactory.hparams.data_args import DataArguments  # noqa: E402
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast  # noqa: E402


class Plugin:
    def process_messages(self, messages, *_):
        return messages

    def process_token_ids(self, ids, labels, *_):
        return ids, labels


class Template:
    """A prompt or answer is written as `index length`, and becomes that many tokens, each index + 1."""

    mm_plugin = Plugin()
    efficient_eos = False
    preserve_thinking = False

    def encode_multiturn(self, tokenizer, messages, *_):
        def ids(message):
            index, length = map(int, message["content"].split())
            return [index + 1] * length

        return [(ids(messages[0]), ids(messages[1]))]


def tokenizer():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"<pad>": 0, "a": 1}, "a")), pad_token="<pad>")


def answer(case):
    arguments = DataArguments(
        cutoff_len=case["max_seq_len"], packing=case["packed"], preprocessing_num_workers=case["num_proc"]
    )
    kind = PackedSupervisedDatasetProcessor if case["packed"] else SupervisedDatasetProcessor
    tokens = tokenizer()
    processor = kind(template=Template(), tokenizer=tokens, processor=None, data_args=arguments)
    rows = [
        {
            "_prompt": [{"role": "user", "content": f"{index} {length - labels}"}],
            "_response": [{"role": "assistant", "content": f"{index} {labels}"}],
            "_system": "",
            "_tools": "",
            "_images": None,
            "_videos": None,
            "_audios": None,
        }
        for index, (length, labels) in enumerate(zip(case["lengths"], case["labels"], strict=True))
    ]
    dataset = Dataset.from_list(rows)
    done = dataset.map(
        processor.preprocess_dataset,
        batched=True,
        batch_size=arguments.preprocessing_batch_size,
        remove_columns=dataset.column_names,
        num_proc=arguments.preprocessing_num_workers,
    )
    collate = DataCollatorForSeq2Seq(tokens, pad_to_multiple_of=8, label_pad_token_id=-100)
    members = [list(dict.fromkeys(token - 1 for token in row if token)) for row in done["input_ids"]]
    widths = [
        collate([{key: row[key] for key in ("input_ids", "attention_mask", "labels")}])["input_ids"].shape[1]
        for row in done
    ]
    return {
        "rows": len(done),
        "members": members,
        "row_tokens": [sum(1 for token in row if token) for row in done["input_ids"]],
        "row_labels": [sum(1 for label in row if label != -100) for row in done["labels"]],
        "widths": widths,
    }


def main():
    asked = json.load(sys.stdin)
    names = ("llamafactory", "datasets", "transformers")
    return {"versions": {name: version(name) for name in names}, "answers": [answer(case) for case in asked]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()))
