"""GPUs: usable memory, driver overhead and published peak rates."""

from __future__ import annotations

from typing import Final

# name: (GiB that CUDA or HIP shows, GiB of context, dense bf16 TFLOP/s, GB/s)
GPUS: Final = {
    "A100-80GB": (79.25, 0.45, 312.0, 2039.0),
    "A100-40GB": (39.49, 0.45, 312.0, 1555.0),
    "A800-80GB": (79.33, 0.45, 312.0, 2039.0),
    "H100": (79.11, 0.55, 989.0, 3350.0),
    "H200": (139.80, 0.55, 989.0, 4800.0),
    "B200": (178.35, 0.60, 2250.0, 8000.0),
    "L4": (21.95, 0.30, 121.0, 300.0),
    "L40S": (44.34, 0.35, 362.0, 864.0),
    "L40": (44.34, 0.35, 181.0, 864.0),
    "A10G": (22.06, 0.30, 70.0, 600.0),
    "A10": (22.06, 0.30, 125.0, 600.0),
    "A30": (23.53, 0.40, 165.0, 933.0),
    "A40": (44.34, 0.35, 149.7, 696.0),
    "RTX A5000": (23.68, 0.30, 111.0, 768.0),
    "RTX A6000": (47.53, 0.35, 154.8, 768.0),
    "RTX 6000 Ada": (47.40, 0.35, 364.0, 960.0),
    "RTX 3090": (23.50, 0.30, 71.0, 936.0),
    "RTX 4090": (23.55, 0.35, 165.2, 1008.0),
    "RTX 5090": (31.36, 0.40, 209.5, 1792.0),
    "T4": (14.56, 0.14, None, 320.0),
    "V100-32GB": (31.73, 0.30, None, 900.0),
    "V100-16GB": (15.77, 0.30, None, 900.0),
    "MI250X": (63.98, 0.50, 191.5, 1638.0),
    "MI300X": (191.69, 0.50, 1307.0, 5300.0),
}
"""Capacity: `total capacity of ... GiB` in out-of-memory messages of PyTorch that public issues and logs quote; where
those of a kind differ by firmware or error correction, a lower one. T4: fitcheck's archive (14,912 MiB). V100-16GB: the
offset of the larger one. One of MI250X's two halves. Context: 0.14 measured on the T4 (same archive); for the others
nothing was measured here, and the reference gives some 0.5 for large ones: typical figures of an empty process, which
the interval of a process's memory makes up for. Speed: the vendors' data sheets, dense tensor throughput in bfloat16
with float32 sums, and bandwidth; T4 and V100 have no bfloat16."""

ALIASES: Final = {
    "A100": None,
    "A100-SXM4-80GB": "A100-80GB",
    "A100 80GB PCIe": "A100-80GB",
    "A100-SXM4-40GB": "A100-40GB",
    "A100-PCIE-40GB": "A100-40GB",
    "A800-SXM4-80GB": "A800-80GB",
    "H100-80GB": "H100",
    "H100 80GB HBM3": "H100",
    "H100 PCIe": "H100",
    "H200-141GB": "H200",
    "Tesla T4": "T4",
    "Tesla V100-SXM2-32GB": "V100-32GB",
    "Tesla V100-PCIE-32GB": "V100-32GB",
    "Tesla V100-SXM2-16GB": "V100-16GB",
    "Tesla V100-PCIE-16GB": "V100-16GB",
    "V100": None,
    "GeForce RTX 3090": "RTX 3090",
    "GeForce RTX 4090": "RTX 4090",
    "GeForce RTX 5090": "RTX 5090",
    "A6000": "RTX A6000",
    "A5000": "RTX A5000",
    "RTX 6000 Ada Generation": "RTX 6000 Ada",
    "Instinct MI250X": "MI250X",
    "Instinct MI300X": "MI300X",
}
"""Other names of them, nvidia-smi's among these (its product names); None where one name stands for two memories."""
