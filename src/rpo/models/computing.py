"""How the engine computes: what the planner counts by too, which does not load the engine."""

from __future__ import annotations

import torch

# What the frozen parts are held and the products computed in, by the names of `precision`.
FLOATS = {
    "fp32": torch.float32,
    "tf32": torch.float32,  # whose products GPUs round to ten bits
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
TEXT_BATCH = 16  # prompts encoded at once
REWARD_BATCH = 32  # pictures or prompts scored at once
